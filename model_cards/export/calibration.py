"""Examples that int8 is calibrated on, read as the model reads its inputs, without augmentation."""

from pathlib import Path
from typing import Any

from ...finetune.arguments import resolve
from ...finetune.probe.arguments import Probe
from ...finetune.probe.runner import open_examples, open_modality
from ...pretraining.recipe import CHECKPOINT
from .measure import inputs_of
from .model import Exportable, Inputs


MOST = 48  # examples, drawn from all


def calibration_inputs(name: str, data: str, model: Exportable, out: Path) -> tuple[list[Inputs], list[Inputs]]:
    """Inputs of one example each: those for the ranges, and a third that is kept to measure the loss.

    Raises:
        ValueError: the data cannot be opened, or hold too few examples; the message names the fix.
    """
    recipe: dict[str, Any] = {
        "model": {CHECKPOINT: name},
        "data": {"train": {"path": data}, "max_examples": MOST},
        "task": {"probes": []},
        "training": {"output_dir": str(out), "use_cpu": True, "report_to": "none"},
    }
    run = resolve(recipe, Probe)
    modality = open_modality(run)
    try:
        examples = open_examples(run, modality)[0]["train"]
    except (ValueError, OSError) as error:
        raise ValueError(f"calibration = {data!r} cannot be opened: {error}") from error
    if len(examples) < 3:
        raise ValueError(f"calibration = {data!r} has {len(examples)} usable examples: must have 3 or more.")
    collate = modality.collator(None, run.training.seed)
    inputs = [inputs_of(model, collate([examples[number]])) for number in range(len(examples))]
    return [given for number, given in enumerate(inputs) if number % 3], inputs[::3]
