"""Guards that watch the logs: one stops a collapse, or has the run rescued; one stops a loss that explodes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .logs import logs_of, prefix_of
from .rescue import Rescue


logger = logging.get_logger(__name__)

REMEDIES = """The usual remedies, in the order to try them:
  1. a lower learning_rate or a longer warm-up;
  2. a teacher that moves less: a higher ema_decay, or a longer ema_anneal_steps;
  3. harder masks where neighbours are alike (speech): a longer span or a larger masking prob;
  4. normalised targets: target_layer_norm instance (over time) or layer, and target_norm layer."""


# How much of a number, as first logged, must stay: what falls below is said. Runs of point clouds that learn well lose
# half of their targets' rank, too, so a rescue waits for a quarter of a rank. The predictions' rank has no limit: it
# falls first where images collapse, and as far in speech that has not begun to learn.
SHARES = {"effective_rank": 0.5, "embedding_share": 0.2, "embedding_rank": 0.5}
RESCUED_SHARES = SHARES | {"effective_rank": 0.25, "embedding_rank": 0.25}
LOST = {
    "effective_rank": "The targets use ever fewer directions",
    "embedding_share": "The local encoder makes ever more the same of every input",
    "embedding_rank": "The local encoder uses ever fewer directions",
}


@dataclass
class CollapseGuard(TrainerCallback):
    """Stops a run whose targets or predictions have lost their spread, and warns of one that loses rank.

    The first two limits of spreads and the start are the original's; the third catches targets that depend on the
    position only. An unhealthy state is not saved, so the newest checkpoint of a stopped run is from before.

    Where the loss of positions has no weight, the spreads of whole samples are judged in place of theirs. Beside it, a
    target that is the same for all samples teaches nothing and hinders nothing: that is said, and stops nothing.

    A collapse into few directions leaves the spreads where they are, and one of the local encoder leaves the targets'
    rank: see [`SHARES`]. The shares are known of short runs (docs/results), so what falls below them is said and stops
    nothing; with a `rescue` it counts like a spread.

    Args:
        start_step: updates before which no spread is judged.
        patience: unhealthy logs in a row after which the run stops, or is rescued or warned of.
        min_target_std, min_prediction_std: lower limits of the spreads.
        min_utterance_std: lower limit of those of whole samples, which are means over time and smaller.
        min_position_share: lower limit of position_std / target_std.
        utterance_only: the loss of positions has no weight.
        modality: of a joint run, whose numbers are judged.
        rescue: what is tried before the run is stopped.
    """

    start_step: int = 5000
    patience: int = 3
    min_target_std: float = 0.1
    min_prediction_std: float = 0.01
    min_utterance_std: float = 0.01
    min_position_share: float = 0.1
    utterance_only: bool = False
    modality: str = ""
    rescue: Rescue | None = None
    explanation: str | None = None  # set when the run was stopped

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was seen, as a run that restarts does."""
        self.unhealthy_since: int | None = None
        self.strikes = 0
        self.warned: set[str] = set()  # of a number that fell below its share
        self.alike = 0  # logs in a row in which the target of whole samples had no spread

    def findings(self, logs: dict[str, float]) -> list[str]:
        """What is below its limit in a log, in words; a number that is not there, or NaN, is not judged."""
        limits = {"target_std": self.min_target_std, "prediction_std": self.min_prediction_std}
        if self.utterance_only:
            limits = {f"utterance_{name}": self.min_utterance_std for name in limits}
        prefix = prefix_of(self.modality)
        watched = {name: (logs.get(name, math.nan), limit) for name, limit in limits.items()}
        share = logs.get("position_std", math.nan) / max(logs.get("target_std", math.nan), 1e-12)
        watched["position_std / target_std"] = (share, self.min_position_share)
        below = {prefix + name: (value, limit) for name, (value, limit) in watched.items() if value < limit}
        return [f"{name} = {value:.4f} is below {limit}" for name, (value, limit) in below.items()]

    def lost(self, log: Sequence[Mapping[str, float]], in_a_row: int, shares: Mapping[str, float]) -> dict[str, str]:
        """What has fallen below its share and was there for so many logs, in words, by name; NaN is no log of it."""
        found = {}
        for name, share in shares.items():
            full = prefix_of(self.modality) + name
            values = [row[full] for row in log if math.isfinite(row.get(full, math.nan))]
            recent = values[1:][-in_a_row:]
            if len(recent) == in_a_row and max(recent) < share * values[0]:
                found[name] = f"{full} = {values[-1]:.3g}, at first {values[0]:.3g}, is below {share:g} of it"
        return found

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs_of(logs or {}, self.modality)
        if not self.utterance_only:
            self._watch_utterances(state, logs.get("utterance_target_std", math.nan))
        if "target_std" not in logs:
            return
        judged = state.global_step >= self.start_step
        found = self.findings(logs) if judged else []
        if self.rescue is None:
            self._warn_of_lost(state)
            if not judged:
                return
        else:
            found += self.lost(state.log_history, 1, RESCUED_SHARES).values()
        if not found:
            self.unhealthy_since, self.strikes = None, 0
            return
        self.unhealthy_since = self.unhealthy_since or state.global_step
        control.should_save = False
        if self.rescue is not None and self.rescue.recovering:
            return
        self.strikes += 1
        if self.strikes < self.patience:
            logger.warning(
                f"step {state.global_step}: {'; '.join(found)}. {self.strikes} of {self.patience} such logs."
            )
            return
        why = (
            f"The representation has collapsed: at step {state.global_step} {' and '.join(found)}, for {self.strikes} "
            f"logs in a row since step {self.unhealthy_since}."
        )
        self.strikes = 0
        refused = None if self.rescue is None else self.rescue.attempt(why, self.unhealthy_since, control)
        if self.rescue is not None and refused is None:
            return
        said = [why, *([refused] if refused else []), "The run was stopped; nothing was saved since then."]
        self.explanation = f"{' '.join(said)}\n{REMEDIES}"
        logger.error(self.explanation)
        control.should_training_stop = True

    def _warn_of_lost(self, state: TrainerState) -> None:
        """Once of each."""
        for name, said in self.lost(state.log_history, self.patience, SHARES).items():
            if name not in self.warned:
                self.warned.add(name)
                logger.warning(
                    f"step {state.global_step}: {said} for {self.patience} logs. {LOST[name]}, which the spreads of "
                    f"the targets do not show. The run goes on.\n{REMEDIES}"
                )

    def _watch_utterances(self, state: TrainerState, spread: float) -> None:
        if math.isnan(spread):  # not logged
            return
        self.alike = self.alike + 1 if spread < self.min_utterance_std else 0
        if self.alike == self.patience:
            logger.warning(
                f"step {state.global_step}: {prefix_of(self.modality)}utterance_target_std = {spread:.4f} is below "
                f"{self.min_utterance_std}, "
                f"for {self.patience} logs: the target of whole samples is the same for all, which teaches nothing. "
                "With objective.target_layer_norm = 'instance' and no target_norm their mean over time is zero: set "
                "target_norm: layer, or cls_loss_weight: 0. The run goes on."
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.unhealthy_since is not None:
            control.should_save = False


@dataclass
class DivergenceGuard(TrainerCallback):
    """Stops a run whose loss has exploded: far above that of its first step, and not come back.

    The first step is logged, with the loss before training changed anything: a loss that later is `factor` times that
    for `patience` logs in a row, or in the last one, has diverged. A spike that comes down is none; neither is a loss
    that was tiny at first, hence the `floor`. An exploded state is not saved.
    """

    patience: int = 3
    factor: float = 100.0
    floor: float = 0.1
    modality: str = ""  # of a joint run, whose loss is judged
    explanation: str | None = None  # set when the run was stopped

    def __post_init__(self) -> None:
        self.strikes = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        name = f"{prefix_of(self.modality)}loss"
        losses = [row for row in state.log_history if math.isfinite(row.get(name, math.nan))]
        if logs is None or not losses or logs.get(name) != losses[-1][name]:
            return
        first, loss = losses[0], logs[name]
        self.strikes = self.strikes + 1 if loss > self.factor * max(first[name], self.floor) else 0
        if not self.strikes:
            return
        control.should_save = False
        if self.strikes >= self.patience or state.global_step >= state.max_steps:
            self.explanation = (
                f"The {name} has exploded: {first[name]:.4g} at step {first['step']}, {loss:.4g} at step "
                f"{state.global_step}, and it did not come back. Nothing was saved since then. Lower learning_rate, "
                "lengthen the warm-up or clip gradients (max_grad_norm)."
            )
            logger.error(self.explanation)
            control.should_training_stop = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.strikes:
            control.should_save = False
