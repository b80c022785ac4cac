"""The encoders that a probe compares: the pretrained one, or its teacher, and untrained ones of the same shape."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel

from ...pretraining.evaluation.probe import teacher_encoder
from ...pretraining.trainer import WHOLE_MODEL
from ..arguments import FineTuneRun


def pretrained_encoder(run: FineTuneRun) -> PreTrainedModel:
    """The student, or the teacher where `task.weights` asks for it, in fp32 and in eval mode.

    Raises:
        ValueError: the checkpoint has no teacher.
    """
    how: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False}
    with _seeded(run.training.seed):  # a pooler that no checkpoint has would differ in every process
        if run.task.weights == "student":
            return AutoModel.from_pretrained(run.checkpoint, config=copy.deepcopy(run.config), **how).eval()
        place = _pretraining_place(run.checkpoint)
        whole = AutoModelForPreTraining.from_pretrained(run.checkpoint, **place, **run.config_overrides, **how)
        return teacher_encoder(whole)


def untrained_encoder(run: FineTuneRun, seed: int) -> PreTrainedModel:
    """Random weights, which follow from `seed`."""
    with _seeded(seed):
        return AutoModel.from_config(copy.deepcopy(run.config), trust_remote_code=False).eval()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, random numbers follow from `seed`; outside, nothing has been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _pretraining_place(checkpoint: str) -> dict[str, str]:
    """Where student, teacher and decoder are: the folder itself, or its sub-folder."""
    for place in ({}, {"subfolder": WHOLE_MODEL}):
        try:
            config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False, **place)
        except (OSError, ValueError):
            continue
        if any(name.endswith("ForPreTraining") for name in config.architectures or []):
            return place
    raise ValueError(
        f"task.weights = 'teacher' is not possible: {checkpoint} holds an encoder alone. Name the folder of a "
        f"pretraining run with its sub-folder {WHOLE_MODEL}, or use weights: student."
    )
