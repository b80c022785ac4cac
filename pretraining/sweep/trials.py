"""A trial of a sweep: what is recorded of it while it runs, and how it can end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.examples import PretrainingDataset
from ..evaluation.probe import batches_of, extract_features, subset, teacher_encoder
from ..modalities.build import PretrainingData
from ..monitoring.metrics import Moments


if TYPE_CHECKING:
    import optuna


FEATURES_OF, AT_ONCE = 1000, 16  # training examples whose features are compared at the end of a trial
# The keys of what is kept of a trial, beside its parameters and its value.
RUN, STATE, MESSAGE, MEASURES = "run", "state", "message", "measures"
RUNNING, PREEMPTED = "running", "preempted"  # states of a trial that is continued when the sweep is


class TrialFailed(RuntimeError):
    """A trial that has no value; the sweep goes on. `state`: failed, collapsed or diverged."""

    def __init__(self, message: str, state: str = "failed"):
        super().__init__(message)
        self.state = state


class SweepPreempted(RuntimeError):
    """A signal ended the trial, and with it the sweep."""


class Watch(TrainerCallback):
    """Keeps the newest of every number that a run logs and, at its end, measures the spread of its features.

    Args:
        measure: what is reported to the pruner.
        trial: is pruned where the pruner says so; `None` where none is.

    Attributes:
        measures: name -> number.
        data: to be set before the run starts.
    """

    data: PretrainingData

    def __init__(self, measure: str, trial: "optuna.Trial | None"):
        self.measure, self.trial = measure, trial
        self.measures: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for log in state.log_history:  # of a trial that is continued
            self._keep(log)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._keep(logs or {})
        if self.trial is None or self.measure not in (logs or {}):
            return
        import optuna

        self.trial.report(self.measures[self.measure], state.global_step)
        if state.global_step < state.max_steps and self.trial.should_prune():
            value = self.measures[self.measure]
            raise optuna.TrialPruned(
                f"{self.measure} = {value:.4g} at step {state.global_step}: worse than the median"
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == state.max_steps and isinstance(self.data.train_dataset, PretrainingDataset):
            self.measures |= feature_ranks(kwargs["model"], self.data)

    def _keep(self, logs: Mapping[str, Any]) -> None:
        unit = ("epoch", "step", "total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second")
        self.measures |= {
            name: float(value) for name, value in logs.items() if isinstance(value, int | float) and name not in unit
        }


def feature_ranks(model: Any, data: PretrainingData) -> dict[str, float]:
    """`feature_rank_student` and `feature_rank_teacher`: effective rank of mean-pooled features, without labels.

    RankMe (arXiv 2210.02885) of centred features of `FEATURES_OF` training examples; see [`metrics.Moments`].
    """
    dataset = cast(PretrainingDataset, data.train_dataset)
    examples: Any = subset(dataset, FEATURES_OF, seed=0)  # type: ignore[arg-type]
    batches = list(batches_of(examples, dataset.modality.collator(None, seed=0)))
    ranks = {}
    for name, encoder in (("student", model.base_model), ("teacher", teacher_encoder(model))):
        features = torch.from_numpy(extract_features(encoder, batches)[0])  # (examples, dim)
        ranks[f"feature_rank_{name}"] = Moments.of(features, products=True).effective_rank().item()
    return ranks
