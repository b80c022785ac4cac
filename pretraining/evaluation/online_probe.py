"""The online probe: while pretraining runs, how well do the frozen student and teacher tell classes apart?"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from torch.utils.data import Subset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..engine.distributed import EngineTrainer
from ..monitoring.clock import TrainingClock
from ..monitoring.logs import prefix_of
from .probe import (
    VALIDATION_SHARE,
    Collate,
    Example,
    batches_of,
    extract_features,
    knn_accuracy,
    subset,
    svm_accuracy,
    teacher_encoder,
)


SCORE = "probe/"  # what the names of scores begin with
MOST_EXAMPLES = 2000  # of each split; they are read once and kept


def fitted_and_measured(
    train: Sequence[Example], validation: Sequence[Example] | None, seed: int
) -> tuple[Sequence[Example], Sequence[Example]]:
    """What the online probe is fitted to and measured on; without validation examples it holds out a fifth of `train`.

    What is chosen by its curve, a setting or when to stop, is then chosen without the test examples.
    """
    if validation is not None:
        return train, validation
    held_out, drawn = round(VALIDATION_SHARE * len(train)), np.random.default_rng(seed).permutation(len(train))
    examples: Any = train
    fitted: Any = Subset(examples, np.sort(drawn[held_out:]).tolist())
    measured: Any = Subset(examples, np.sort(drawn[:held_out]).tolist())
    return fitted, measured


class ProbeCallback(TrainerCallback):
    """Logs `probe/knn_student` and `probe/knn_teacher`, accuracies from 0 to 1; with `svm` also `probe/svm_...`.

    Before the first step, every `probe_steps` optimizer steps and after the last one. The main process computes and
    logs, the others go on and wait for it where they next exchange gradients. Training is not disturbed: no random
    number is drawn and every module keeps its mode.

    Args:
        trainer: whose `log` is called; its model has a `base_model` and a `teacher`.
        train, validation: labelled examples, as `collate` takes them (without masks).
        probe_steps: how often, 1 or more.
        svm: also a linear support vector machine.
        clock: the trainer's, which stands while this measures.
        modality: of a joint run, in front of what is logged: `audio/probe/knn_student`.
    """

    def __init__(
        self,
        trainer: EngineTrainer,
        train: Sequence[Example],
        validation: Sequence[Example],
        collate: Collate,
        *,
        probe_steps: int,
        clock: TrainingClock,
        svm: bool = False,
        modality: str = "",
    ):
        self.trainer, self.collate, self.probe_steps, self.clock = trainer, collate, probe_steps, clock
        self.svm, self.modality, self.prefix = svm, modality, prefix_of(modality) + SCORE
        self.splits = {"train": train, "validation": validation}
        self.last_step = -1

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        return {name: subset(split, MOST_EXAMPLES, seed=0) for name, split in self.splits.items()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._probe(state, control)
        elif any(f"{self.prefix}knn_student" in log and log["step"] == state.global_step for log in state.log_history):
            self.last_step = state.global_step  # continued from a checkpoint made after that probe

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.probe_steps == 0:
            self._probe(state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.last_step < state.global_step == state.max_steps:  # not where the run was stopped
            self._probe(state, control)

    def _probe(self, state: TrainerState, control: TrainerControl) -> None:
        self.last_step = state.global_step
        model = self.trainer.whole_model()  # every process takes part
        if state.is_world_process_zero:
            with self.clock.paused():
                self._measure(control, model)

    def _measure(self, control: TrainerControl, model: Any) -> None:
        scores: dict[str, float] = {}
        model = model.parts[self.modality]
        for name, encoder in (("student", model.base_model), ("teacher", teacher_encoder(model))):
            train, held_out = self._features(encoder, "train"), self._features(encoder, "validation")
            scores[f"{self.prefix}knn_{name}"] = knn_accuracy(*train, *held_out)
            if self.svm:
                scores[f"{self.prefix}svm_{name}"] = svm_accuracy(*train, *held_out)
        # logging clears the flag: the step's own log, due after this callback, would be lost
        should_log = control.should_log
        self.trainer.log(scores)
        control.should_log = should_log

    def _features(self, encoder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        return extract_features(encoder, batches_of(self.examples[split], self.collate))


def last_scores(state: TrainerState, prefix: str, modality: str = "") -> dict[str, float]:
    """What the probe last measured, alike on all ranks, under names with `prefix`; empty where it measures nothing."""
    own = prefix_of(modality) + SCORE
    found = [{name: row[name] for row in state.log_history for name in row if name.startswith(own)}]
    broadcast_object_list(found)  # the main process alone has logged it
    return {f"{prefix}{name.removeprefix(prefix_of(modality))}": value for name, value in found[0].items()}
