"""A trial of a sweep: what is recorded of it while it runs, and how it can end."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..evaluation.label_free import DIRECTIONS, label_free_measures
from ..modalities.build import PretrainingData


if TYPE_CHECKING:
    import optuna


# The keys of what is kept of a trial, beside its parameters and its value.
STATE, MESSAGE, MEASURES = "state", "message", "measures"


class TrialFailed(RuntimeError):
    """A trial that has no value; the sweep goes on. `state`: failed, collapsed or diverged."""

    def __init__(self, message: str, state: str = "failed"):
        super().__init__(message)
        self.state = state


class SweepPreempted(RuntimeError):
    """A signal ended the trial, and with it the sweep."""


class Watch(TrainerCallback):
    """Keeps the newest of every number that a run logs and measures its features, without labels, at its end.

    Args:
        measure: what is reported to the pruner.
        trial: is pruned where the pruner says so; `None` where none is.
        rungs: steps after which features are measured for the pruner, besides.
        losers: which trials a pruner ends, for the message.

    Attributes:
        measures: name -> number.
        data: to be set before the run starts.
    """

    data: PretrainingData

    def __init__(
        self, measure: str, trial: "optuna.Trial | None" = None, rungs: Collection[int] = (), losers: str = ""
    ):
        self.measure, self.trial, self.rungs, self.losers = measure, trial, rungs, losers
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
        if self.measure in (logs or {}):
            self._report(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.measure in DIRECTIONS and state.global_step in self.rungs:
            self.measures |= label_free_measures(kwargs["model"], self.data)
            self._report(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == state.max_steps:
            self.measures |= label_free_measures(kwargs["model"], self.data)

    def _report(self, state: TrainerState) -> None:
        """Tell the pruner how the trial does. Raises TrialPruned where that is not well enough."""
        if self.trial is None:
            return
        import optuna

        value = self.measures[self.measure]
        self.trial.report(value, state.global_step)
        if state.global_step < state.max_steps and self.trial.should_prune():
            raise optuna.TrialPruned(f"{self.measure} = {value:.4g} at step {state.global_step}: {self.losers}")

    def _keep(self, logs: Mapping[str, Any]) -> None:
        unit = ("epoch", "step", "total_flos", "train_runtime", "train_samples_per_second", "train_steps_per_second")
        self.measures |= {
            name: float(value) for name, value in logs.items() if isinstance(value, int | float) and name not in unit
        }
