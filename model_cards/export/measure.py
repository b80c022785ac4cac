"""What an export costs and gives: differences from PyTorch, time, and what int8 loses on the run's own test data."""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers.trainer_pt_utils import nested_concat
from transformers.trainer_utils import EvalPrediction

from ...finetune.arguments import resolve
from ...finetune.audio.task import AudioClassification
from ...finetune.ctc.task import SpeechRecognition
from ...finetune.image.task import ImageClassification
from ...finetune.task import Task
from ...finetune.text.task import TextClassification
from ...pretraining.console.progress import progress
from ..folder import open_folder
from ..report.inputs import Inputs as RunInputs
from ..strip_paths import without_places
from .formats import Runner
from .model import Exportable, Inputs


TASKS: dict[str, type[Task[Any, Any]]] = {
    task.name: task for task in (AudioClassification, SpeechRecognition, ImageClassification, TextClassification)
}
ROUNDS, PATIENCE = 9, 20.0  # of timing; seconds after which no further round starts
EXAMPLES = 256  # of the test split, one after the other: nothing is padded
PADDING = -100  # between outputs of different lengths, as the Trainer has it


def inputs_of(model: Exportable, batch: Mapping[str, Tensor]) -> Inputs:
    """What an export takes of a batch; an attention mask that is not there says that all is real."""
    whole = torch.ones(batch[model.names[0]].shape[:2], dtype=torch.long)
    return {name: batch.get(name, whole) for name in model.names}


def differences(model: Exportable, eager: Runner, exported: Runner) -> list[dict[str, Any]]:
    """At each shape of `model.checked` the largest difference, as a share of the largest output if that is above 1."""
    found = []
    for shape in model.checked:
        inputs = model.example(shape)
        difference = apart(exported(inputs), eager(inputs))
        found.append({"rows": shape.rows, model.unit: shape.length or 1, "difference": difference})
    return found


def apart(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    difference = float((actual - expected).abs().max())
    return difference / max(1.0, float(expected.abs().max())) if difference == difference else float("inf")


def speed(model: Exportable, runners: Mapping[str, Runner]) -> dict[str, float]:
    """Milliseconds of one forward each, the median of rounds in which all take turns."""
    inputs = model.example(model.timed)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner(inputs)  # the first one allocates
    end = time.monotonic() + PATIENCE
    for done in range(ROUNDS):
        if done and time.monotonic() > end:
            break
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(inputs)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def int8_loss(name: str, model: Exportable, full: Runner, int8: Runner, held_out: Sequence[Inputs]) -> dict[str, Any]:
    """What int8 changes: the task's metrics on its test data, or how far features turn.

    `on` says what was measured on: the data that calibration left out, the run's own data if its recipe is there and
    its data can be opened, else random inputs, with the reason in `why_not_its_data`.
    """
    try:
        if (Path(name) / "results.json").is_file():
            return _task_loss(Path(name), model, full, int8)
        batches = held_out or _encoder_batches(name, model)
    except (ValueError, OSError) as error:
        if not held_out:
            random = [model.example(shape, seed=1) for shape in (*model.checked, model.timed)]
            why = without_places(str(error))
            return {"on": "random inputs", "why_not_its_data": why, **_turned(random, full, int8)}
        batches = held_out
    whose = "calibration data, not calibrated on" if held_out else "the run's data"
    return {"on": f"{len(batches)} examples of {whose}", **_turned(batches, full, int8)}


def _encoder_batches(name: str, model: Exportable) -> list[Inputs]:
    """Examples of a pretraining run; ValueError where there are none to be had."""
    inputs = RunInputs(open_folder(name))
    return [inputs_of(model, inputs.collate([example])) for example in inputs.examples(16)]


def _turned(batches: Sequence[Inputs], full: Runner, int8: Runner) -> dict[str, float]:
    """The mean cosine between outputs of both, and the largest difference relative to the largest output."""
    cosines, largest = [], 0.0
    for inputs in batches:
        expected, actual = full(inputs), int8(inputs)
        real = inputs.get("attention_mask")
        if real is None or bool(real.all()):  # outputs at padding are nobody's
            cosines.append(torch.cosine_similarity(expected, actual, dim=-1).mean())
        largest = max(largest, apart(actual, expected))
    return {"mean_cosine": round(float(torch.stack(cosines).mean()), 6), "largest_difference": largest}


def _task_loss(folder: Path, model: Exportable, full: Runner, int8: Runner) -> dict[str, Any]:
    """The metrics of results.json's main split with both models; ValueError where its data cannot be opened."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    task_class = TASKS.get(results.get("run", {}).get("task", ""))
    if task_class is None or "main" not in results:
        raise ValueError(f"{folder / 'results.json'} is of no task whose outputs are measured here.")
    recipe: dict[str, Any] = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as nowhere:
        training = {name: value for name, value in recipe["training"].items() if name in ("seed", "learning_rate")}
        recipe = recipe | {
            "model": {"model_name_or_path": str(folder)},
            "training": training | {"output_dir": nowhere, "use_cpu": True, "report_to": "none"},
        }
        task = task_class(resolve(recipe, task_class))
        data = task.build_data()
    split = results["main"]["split"]
    examples = data.evaluation[split]
    count = min(EXAMPLES, len(examples))
    outputs: dict[str, Any] = {}
    largest = 0.0
    labels: Any = None
    for number in progress(range(count), title="measuring int8", unit="example"):
        batch = data.collator([examples[number]])
        truth = batch["labels"]
        labels = truth if labels is None else nested_concat(labels, truth, PADDING)
        inputs = inputs_of(model, batch)
        found = {"fp32": full(inputs), "int8": int8(inputs)}
        largest = max(largest, apart(found["int8"], found["fp32"]))
        for name, logits in found.items():
            kept = task.preprocess_logits(logits, truth)
            outputs[name] = nested_concat(outputs[name], kept, PADDING) if name in outputs else kept
    metrics = {
        name: task.compute_metrics(EvalPrediction(predictions=kept.numpy(), label_ids=labels.numpy()))
        for name, kept in outputs.items()
    }
    main = task.main_metric
    return {
        "on": f"{count} examples of {split}",
        "metric": main,
        "fp32": metrics["fp32"][main],
        "int8": metrics["int8"][main],
        "all": metrics,
        "largest_difference": largest,
    }
