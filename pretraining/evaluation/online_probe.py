"""The online probe: while pretraining runs, how well do the frozen student and teacher tell classes apart?"""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..engine.distributed import EngineTrainer
from ..monitoring.clock import TrainingClock
from .probe import (
    Collate,
    Example,
    Layer,
    batches_of,
    extract_features,
    knn_accuracy,
    linear_probe,
    subset,
    teacher_encoder,
)


class ProbeCallback(TrainerCallback):
    """Logs `probe/knn_student` and `probe/knn_teacher` (and `probe/linear_...`), accuracies from 0 to 1.

    Before the first step, every `probe_steps` optimizer steps and after the last one. The main process computes and
    logs, the others go on and wait for it where they next exchange gradients. Training is not disturbed: no random
    number is drawn and every module keeps its mode.

    Args:
        trainer: whose `log` is called; its model has a `base_model` and a `teacher`.
        train, test: labelled examples, as `collate` takes them (without masks).
        probe_steps: how often.
        k: neighbours of the k-NN.
        linear: also fit a linear probe, which takes longer.
        layer: whose features, see [`evaluation.probe.extract_features`].
        max_examples: most examples of each split; they are read once and kept.
        clock: the trainer's, which stands while this measures.

    Raises:
        ValueError: at the start of training, where the model's parameters are sharded over processes and the trainer
            is none that gathers them.
    """

    def __init__(
        self,
        trainer: Trainer,
        train: Sequence[Example],
        test: Sequence[Example],
        collate: Collate,
        *,
        probe_steps: int,
        k: int = 10,
        linear: bool = False,
        layer: Layer = None,
        max_examples: int = 2000,
        clock: TrainingClock | None = None,
    ):
        if probe_steps < 1:
            raise ValueError(f"probe_steps = {probe_steps} is not possible: use 1 or more.")
        self.trainer, self.collate = trainer, collate
        self.splits, self.max_examples = {"train": train, "test": test}, max_examples
        self.probe_steps, self.k, self.linear, self.layer = probe_steps, k, linear, layer
        self.clock = clock
        self.last_step = -1

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        return {name: subset(split, self.max_examples, seed=0) for name, split in self.splits.items()}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._spread() and not isinstance(self.trainer, EngineTrainer):
            raise ValueError(
                f"probe_steps = {self.probe_steps} is not possible with FSDP or DeepSpeed in a "
                f"{type(self.trainer).__name__}: one process alone cannot run a model whose parameters are spread "
                "over all. Use Data2VecTrainer, which gathers them, or leave the online probe out of this run."
            )
        if state.global_step == 0:
            self._probe(state, control, kwargs["model"])
        elif any("probe/knn_student" in log and log["step"] == state.global_step for log in state.log_history):
            self.last_step = state.global_step  # continued from a checkpoint made after that probe

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.probe_steps == 0:
            self._probe(state, control, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.last_step < state.global_step == state.max_steps:  # not where the run was stopped
            self._probe(state, control, kwargs["model"])

    def _probe(self, state: TrainerState, control: TrainerControl, model: PreTrainedModel) -> None:
        self.last_step = state.global_step
        if isinstance(self.trainer, EngineTrainer) and self._spread():
            model = self.trainer.whole_model()  # every process takes part
        if state.is_world_process_zero:
            with nullcontext() if self.clock is None else self.clock.paused():
                self._measure(control, model)

    def _spread(self) -> bool:
        return self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled

    def _measure(self, control: TrainerControl, model: PreTrainedModel) -> None:
        scores: dict[str, float] = {}
        for name, encoder in (("student", model.base_model), ("teacher", teacher_encoder(model))):
            train_x, train_y = self._features(encoder, "train")
            test_x, test_y = self._features(encoder, "test")
            scores[f"probe/knn_{name}"] = knn_accuracy(train_x, train_y, test_x, test_y, k=self.k)
            if self.linear:
                scores[f"probe/linear_{name}"] = linear_probe(train_x, train_y, test_x, test_y).accuracy
        # logging clears the flag: the step's own log, due after this callback, would be lost
        should_log = control.should_log
        self.trainer.log(scores)
        control.should_log = should_log

    def _features(self, encoder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        return extract_features(encoder, batches_of(self.examples[split], self.collate), layer=self.layer)
