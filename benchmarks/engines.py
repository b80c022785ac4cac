"""The same recipe on every engine: the largest differences of losses and weights, as a Markdown table.

    python benchmarks/engines.py [--engines ddp fsdp2 ...] [--settings "fp32, accumulation 1" ...]

Two processes on the CPU (gloo), told what `accelerate launch --config_file pretraining/launch/ENGINE.yaml` tells them,
against one process that accumulates the same micro-batches. The recipe is a tiny data2vec 2.0 on scikit-learn's digits
with LayerDrop, so that every engine has to drop the same layers, and that of a joint run on digits and prose; without
dropout and noise, whose random numbers are each rank's own.
"""

import argparse
import copy
import json
import os
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


# before torch and DeepSpeed read them
os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}

import yaml
from safetensors.torch import load_file
from transformers import training_args

from data2vec.pretraining.run import main as pretrain


LAUNCH = Path(__file__).resolve().parents[1] / "pretraining" / "launch"
ENGINES = ("ddp", "fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
CHOSEN = "{{method: {}, candidates: 4, of: {{method: block, prob: 0.6, length: 2, inverse: true}}}}"
SETTINGS: dict[str, list[str]] = {  # what is compared with one process
    "fp32, accumulation 1": [],
    "fp32, accumulation 2": ["--gradient_accumulation_steps", "2"],
    "bf16, accumulation 1": ["--bf16", "true"],
    "joint, accumulation 1": [],
    **{f"masks by {how}": ["--objective.masking", CHOSEN.format(how)] for how in ("attention", "variance", "error")},
}
RECIPE: dict[str, Any] = {
    "model": {
        "model_type": "data2vec2-vision", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 40, "image_size": 8, "patch_size": 2, "num_channels": 1, "num_prenet_layers": 1,
        "layerdrop": 0.4, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
        "drop_path_rate": 0.0, "initializer_range": 0.1,
    },
    "objective": {
        "views": 2, "top_k_layers": 2, "masking": {"method": "block", "prob": 0.6, "length": 2, "inverse": True},
        "mask_noise_std": 0.0, "decoder": {"dim": 16, "layers": 2, "kernel": 3, "groups": 4, "input_dropout": 0.0},
        "ema_decay": 0.9, "ema_end_decay": 0.99, "ema_anneal_steps": 4,
    },
    "data": {
        "sources": [{"path": "builtin:digits"}], "crop": "shift", "shift_pixels": 1, "flip": 0.0, "color_jitter": 0.0,
        "probe": {"path": "builtin:digits"},
    },
    "training": {
        "output_dir": "runs/engines", "max_steps": 6, "save_steps": 3, "logging_steps": 1, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.05, "max_grad_norm": 3.0,
        "per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True, "save_total_limit": 5,
        "probe_steps": 3,
    },
}  # fmt: skip

SCHEDULE = ("ema_decay", "ema_end_decay", "ema_anneal_steps")


def joint_recipe() -> dict[str, Any]:
    """The same trunk and schedule for digits and prose, which take turns about equally often."""
    found: dict[str, Any] = copy.deepcopy(RECIPE)
    image = {section: found.pop(section) for section in ("model", "objective", "data")}
    image["model"] |= {"num_prenet_layers": 0}
    image["model"].pop("layerdrop")  # has no place in a trunk
    text = {
        "model": {"model_type": "data2vec2-text", "vocab_size": 261, "max_position_embeddings": 34},
        "objective": image["objective"] | {"masking": {"method": "random", "prob": 0.4}},
        "data": {"sources": [{"path": "builtin:python-docs"}], "tokenizer": "builtin:byte-bpe", "block_size": 32},
    }
    text["objective"] = {name: value for name, value in text["objective"].items() if name not in SCHEDULE}
    own = ("model_type", "image_size", "patch_size", "num_channels", "num_prenet_layers")
    trunk = {name: image["model"].pop(name) for name in list(image["model"]) if name not in own}
    schedule = {name: image["objective"].pop(name) for name in SCHEDULE}
    modalities = {"image": image | {"weight": 1.0}, "text": text | {"weight": 1.0}}
    return found | {
        "model": {"model_type": "data2vec2-joint", **trunk},
        "objective": schedule,
        "modalities": modalities,
    }


def on_cpu(engine: str) -> list[str]:
    """The fields that a run on a machine without a GPU needs in addition."""
    return ["--ddp_backend", "gloo"] if Path(engine).name.startswith("deepspeed") else ["--use_cpu", "true"]


def environment(engine: str, processes: int) -> dict[str, str]:
    """What `accelerate launch --config_file pretraining/launch/ENGINE.yaml` tells the processes that it starts."""
    from accelerate.commands import launch
    from accelerate.utils import launch as preparation

    words = ["--config_file", str(LAUNCH / f"{engine}.yaml"), "--num_processes", str(processes)]
    words += ["--main_process_port", "0", "run.py"]  # any that is free
    args, defaults, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(words))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        return preparation.prepare_deepspeed_cmd_env(args)[1]
    if processes == 1:
        return preparation.prepare_simple_launcher_cmd_env(args)[1]
    return preparation.prepare_multi_gpu_env(args)


def launch(engine: str, folder: Path, *fields: str, processes: int = 2, recipe: dict[str, Any] = RECIPE) -> str:
    """Pretrain into a folder and return what was said. Forked, as imports take longer than such a run.

    Raises:
        RuntimeError: a process did not end with 0.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    words = [str(path), "--output_dir", str(folder), *on_cpu(engine), *fields]
    settings = environment(engine, processes)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder.with_suffix(".log")
    children = []
    for rank in range(processes):
        if (child := os.fork()) == 0:
            _become(rank, processes, port, settings, log)
            _run(words)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise RuntimeError(f"{engine}: exit codes {codes}\n{log.read_text()[-6000:]}")
    return log.read_text()


def _become(rank: int, processes: int, port: int, settings: dict[str, str], log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(settings)
    # `TrainingArguments` takes bf16 without a GPU for an oversight unless use_cpu is set, which excludes DeepSpeed
    training_args.is_torch_bf16_gpu_available = lambda: True
    if processes > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in {**ranks, **places}.items()})


def _run(words: list[str]) -> None:
    code = 1
    try:
        code = pretrain(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def logged(name: str, folder: Path) -> list[float]:
    """The numbers of this name, in a joint run of all modalities."""
    state = json.loads((folder / "trainer_state.json").read_text())
    return [value for log in state["log_history"] for key, value in log.items() if key.endswith(name)]


def differences(reference: Path, folder: Path) -> dict[str, float]:
    """Largest absolute difference of losses, of the online probe, and of weights: student with head, teacher."""
    found = {}
    for part, names in (("loss", ["loss"]), ("probe", ["probe/knn_student", "probe/knn_teacher"])):
        pairs = [zip(logged(name, reference), logged(name, folder), strict=True) for name in names]
        found[part] = max(abs(one - other) for pair in pairs for one, other in pair)
    expected = load_file(reference / "pretraining" / "model.safetensors")
    weights = load_file(folder / "pretraining" / "model.safetensors")
    assert weights.keys() == expected.keys()
    for part in ("student", "teacher"):
        names = [name for name in weights if name.startswith("teacher.") == (part == "teacher")]
        assert all(weights[name].dtype == expected[name].dtype for name in names), part
        found[part] = max((weights[name].float() - expected[name].float()).abs().max().item() for name in names)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--folder", type=Path, help="keep the runs there")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="engines-"))
    if not arguments.json:
        print("| engine, 2 processes | setting | loss | probe | student | teacher |")
        print("| --- | --- | --- | --- | --- | --- |")
    for number, setting in enumerate(arguments.settings):
        fields, recipe = SETTINGS[setting], joint_recipe() if setting.startswith("joint") else RECIPE
        steps = "4" if "accumulation 2" in setting else "2"
        reference = folder / f"one-{number}"
        launch("single_cpu", reference, *fields, "--gradient_accumulation_steps", steps, processes=1, recipe=recipe)
        for engine in arguments.engines:
            target = folder / f"{engine}-{number}"
            launch(engine, target, *fields, recipe=recipe)
            found = differences(reference, target)
            if arguments.json:
                print(json.dumps({"engine": engine, "setting": setting, **found}), flush=True)
            else:
                numbers = " | ".join(f"{value:.0e}" for value in found.values())
                print(f"| {engine} | {setting} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
