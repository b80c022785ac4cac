"""The claim `phones` of reproduce.py: what an encoder of half the size knows, and what int8 loses of it.

    a run of the system, the teacher   ->   students of half the depth or width, taught by it, or each on its own
    each of them                       ->   ONNX in fp32, and in int8 with dynamic and static ranges of activations

All classifiers read the features that the ONNX files give. How fast the files are: benchmarks/int8.py.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from comparisons import Comparison
from experiment import SYSTEMS, Experiment, once, wall_seconds
from measure import Data, accuracies
from trunks import compare_arms, draw_arms, table_of

from data2vec.model_cards.export.formats import run_onnx, write_int8, write_onnx
from data2vec.model_cards.export.measure import inputs_of
from data2vec.model_cards.export.model import exportable, open_model, trace
from data2vec.pretraining.evaluation.probe import batches_of, extract_features


SEEDS = (0, 1, 2)
CLAIM = "An encoder of half the size learns more from a larger one's features than on its own, and int8 loses nothing"
PAPER = "no published number; DistilHuBERT (arXiv 2110.01900) distils speech encoders in the same way"
TEACHER, DEPTH, WIDTH = "teacher", "half the depth", "half the width"
TAUGHT, ALONE = "taught", "on its own"
FP32, DYNAMIC, STATIC = "fp32", "int8 dynamic", "int8 static"
SETS = {"images": "vision_v2", "digits": "audio_v2"}
UPDATES = {"images": 250, "digits": 400}  # of every student, half of the teacher's
SMALLER: dict[str, dict[str, dict[str, Any]]] = {
    "images": {
        DEPTH: {"model.num_hidden_layers": 2},
        WIDTH: {"model.hidden_size": 32, "model.intermediate_size": 128},
    },
    "digits": {
        DEPTH: {"model.num_hidden_layers": 2},
        WIDTH: {"model.hidden_size": 48, "model.intermediate_size": 192, "model.conv_dim": [24, 48]},
    },
}
CALIBRATED = 32  # clips or images


def fields_of(name: str) -> dict[str, dict[str, Any]]:
    """What each network of a data set changes of its system's recipe."""
    found: dict[str, dict[str, Any]] = {TEACHER: {}}
    for size, fields in SMALLER[name].items():
        shorter = fields | {"training.max_steps": UPDATES[name], "objective.ema_anneal_steps": UPDATES[name]}
        found[f"{size}, {TAUGHT}"] = shorter | {"taught_by": {}}
        blocks = {"objective.top_k_layers": 2} if size == DEPTH else {}
        found[f"{size}, {ALONE}"] = shorter | blocks
    return found


def evaluate(data: Path, runs: Path, seeds: tuple[int, ...] = SEEDS, **changes: Any) -> dict[str, Any]:
    """Everything that data/phones.json holds; `changes` are fields of every recipe."""
    arms: dict[str, list[dict[str, Any]]] = {}
    wall = 0.0
    for seed in seeds:
        rows: dict[str, dict[str, Any]] = {}
        for name, system in SETS.items():
            for network, fields in fields_of(name).items():
                found = trained(Experiment(system, fields | changes, seed, data, runs))
                wall += found["wall_seconds"]
                for kind, of_kind in found["files"].items():
                    row = rows.setdefault(f"{network}, {kind}", {"seed": seed, "scores": {}, "bytes": {}})
                    row["scores"][name], row["bytes"][name] = of_kind["scores"], of_kind["bytes"]
                print(f"phones: {name}, {network}, seed {seed}: {json.dumps(found)}", flush=True)
        for arm, row in rows.items():
            arms.setdefault(arm, []).append(row)
    return {"claim": CLAIM, "paper": PAPER, "updates": UPDATES, "arms": arms, "wall_seconds": round(wall, 1)}


def trained(of: Experiment) -> dict[str, Any]:
    """Of a run that is trained and exported unless that was done."""
    of.pretrain()
    found = once(of.folder.with_name(f"{of.folder.name}-phones.json"), lambda: {"files": files(of)})
    return found | {"wall_seconds": wall_seconds(of.folder) + found["seconds"]}


def files(of: Experiment) -> dict[str, Any]:
    """Scores and bytes of the ONNX files of an encoder."""
    labelled, model = Data(of), exportable(open_model(str(of.folder), "eager"))
    collate: Any = labelled.data.probe_collator
    step = len(labelled.train) // CALIBRATED
    ranges = [inputs_of(model, collate([example])) for example in labelled.train[::step][:CALIBRATED]]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = {kind: Path(name) / f"{number}.onnx" for number, kind in enumerate((FP32, DYNAMIC, STATIC))}
        write_onnx(trace(model), model, paths[FP32])
        write_int8(paths[FP32], paths[DYNAMIC])
        write_int8(paths[FP32], paths[STATIC], ranges)
        for kind, path in paths.items():
            runner, encoder = run_onnx(path), labelled.encoder("student")

            def forward(runner: Any = runner, output_hidden_states: bool = False, **batch: Any) -> Any:
                return SimpleNamespace(last_hidden_state=runner(inputs_of(model, batch)))

            encoder.forward = forward
            size = 1 if kind == DYNAMIC else 64  # whose ranges are those of a batch
            splits = (batches_of(split, collate, size) for split in (labelled.train, labelled.test))
            (train_x, train_y), (test_x, test_y) = (extract_features(encoder, batches) for batches in splits)
            scores = accuracies(train_x, train_y, test_x, test_y, SYSTEMS[of.system].labels_per_class)
            found[kind] = {"bytes": path.stat().st_size, "scores": scores}
    return found


def compared(found: dict[str, Any]) -> list[Comparison]:
    pairs = [(f"{size}, {TAUGHT}, {FP32}", f"{size}, {ALONE}, {FP32}") for size in (WIDTH, DEPTH)]
    pairs += [(f"{WIDTH}, {TAUGHT}, {kind}", f"{WIDTH}, {TAUGHT}, {FP32}") for kind in (DYNAMIC, STATIC)]
    return [row for better, worse in pairs for row in compare_arms(found["arms"], better, worse)]


def table(found: dict[str, Any]) -> str:
    """Accuracies, and the size of the files."""
    lines = [table_of(found["arms"]), "", "| kB | " + " | ".join(SETS) + " |", "| --- |" + " --: |" * len(SETS)]
    for arm, rows in found["arms"].items():
        lines.append(f"| {arm} | " + " | ".join(f"{rows[0]['bytes'][name] / 1000:.0f}" for name in SETS) + " |")
    return "\n".join(lines)


def draw(found: Mapping[str, Any], path: Path) -> None:
    draw_arms(found["arms"], path)
