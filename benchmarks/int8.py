"""How large and how fast exports in fp32 and int8 are on one core, beside each other, with random weights.

    OMP_NUM_THREADS=1 python benchmarks/int8.py --json int8.json

One image, or one second of sound, for the networks of docs/results and those of half their depth or width, and for
data2vec 2.0 at base size. All files of a network take turns in one process, on one thread: medians of the rounds, and
the ratio to ONNX in fp32. Static ranges are those of random inputs, which changes no speed.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from data2vec.model_cards.export.formats import run_eager, run_onnx, write_int8, write_onnx
from data2vec.model_cards.export.model import Shape, exportable, trace
from data2vec.pretraining.arguments import Run, read_recipe, resolve


SYSTEMS = Path(__file__).parents[1] / "docs" / "results" / "systems"
DEPTH: dict[str, Any] = {"num_hidden_layers": 2}
# recipe, fields of its model
NETWORKS: dict[str, tuple[Path, dict[str, Any]]] = {
    "images, 4 blocks of 64": (SYSTEMS / "vision_v2.yaml", {}),
    "images, half the depth": (SYSTEMS / "vision_v2.yaml", DEPTH),
    "images, half the width": (SYSTEMS / "vision_v2.yaml", {"hidden_size": 32, "intermediate_size": 128}),
    "images, base": (Path("vision_base_v2.yaml"), {}),
    "sound, 4 blocks of 96": (SYSTEMS / "audio_v2.yaml", {}),
    "sound, half the depth": (SYSTEMS / "audio_v2.yaml", DEPTH),
    "sound, half the width": (
        SYSTEMS / "audio_v2.yaml", {"hidden_size": 48, "intermediate_size": 192, "conv_dim": [24, 48]},
    ),
    "sound, base": (Path("audio_base_v2.yaml"), {}),
}  # fmt: skip
PYTORCH, FP32, DYNAMIC, STATIC = "PyTorch", "fp32", "int8 dynamic", "int8 static"


def asked(network: str) -> Run:
    """The recipe of a network, on one thread of a CPU."""
    path, fields = NETWORKS[network]
    recipe = read_recipe(path)
    recipe["model"] |= fields
    recipe["objective"] |= {"top_k_layers": 1, "ema_anneal_steps": 1}
    recipe["data"] = {"sources": [{"path": "none"}]}
    recipe["training"] = {"output_dir": "none", "max_steps": 1, "use_cpu": True}
    return resolve(recipe)


def measure(network: str, rounds: int) -> dict[str, dict[str, float]]:
    """Bytes, milliseconds and speed relative to ONNX in fp32, of each file; of PyTorch, the bytes of its weights."""
    torch.manual_seed(0)
    run = asked(network)
    run.config._attn_implementation = "eager"
    model = exportable(run.model_class(run.config).base_model.eval())
    shape = Shape(1, 16_000 if model.unit == "samples" else 0)
    with tempfile.TemporaryDirectory() as name:
        paths = {kind: Path(name) / f"{number}.onnx" for number, kind in enumerate((FP32, DYNAMIC, STATIC))}
        write_onnx(trace(model), model, paths[FP32])
        write_int8(paths[FP32], paths[DYNAMIC])
        write_int8(paths[FP32], paths[STATIC], [model.example(shape, seed) for seed in range(2)])
        runners = {PYTORCH: run_eager(model), **{kind: run_onnx(path) for kind, path in paths.items()}}
        inputs = model.example(shape, seed=3)
        times: dict[str, list[float]] = {kind: [] for kind in runners}
        for number in range(rounds + 1):
            for kind, runner in runners.items():
                began = time.perf_counter()
                runner(inputs)
                if number:  # the first one allocates
                    times[kind].append(1000 * (time.perf_counter() - began))
        sizes = {kind: path.stat().st_size for kind, path in paths.items()}
    sizes[PYTORCH] = 4 * sum(parameter.numel() for parameter in model.model.parameters())
    median = {kind: statistics.median(values) for kind, values in times.items()}
    return {
        kind: {"bytes": sizes[kind], "ms": round(value, 3), "speed": round(median[FP32] / value, 2)}
        for kind, value in median.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for network in given.networks:
        found[network] = measure(network, given.rounds)
        print(network, flush=True)
        for kind, row in found[network].items():
            print(f"  {kind:14}{row['bytes'] / 1e6:9.2f} MB{row['ms']:10.2f} ms{row['speed']:7.2f} x", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
