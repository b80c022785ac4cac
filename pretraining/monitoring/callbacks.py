"""Guards that watch the logs: one stops a collapse, one a loss that explodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .logs import logs_of, prefix_of


logger = logging.get_logger(__name__)

REMEDIES = """The usual remedies, in the order to try them:
  1. a lower learning_rate or a longer warm-up;
  2. a teacher that moves less: a higher ema_decay, or a longer ema_anneal_steps;
  3. harder masks where neighbours are alike (speech): a longer span or a larger masking prob;
  4. normalised targets: target_layer_norm instance (over time) or layer, and target_norm layer."""


@dataclass
class CollapseGuard(TrainerCallback):
    """Stops a run whose targets or predictions have lost their spread, and warns of one whose targets lose their rank.

    The first two limits and the start are the original's; the third catches targets that depend on the position only.
    An unhealthy state is not saved, so the newest checkpoint of a stopped run is from before.

    Where the loss of positions has no weight, the spreads of whole samples are judged in place of theirs. Beside it, a
    target that is the same for all samples teaches nothing and hinders nothing: that is said, and stops nothing.

    A collapse into few directions leaves the spreads where they are. Small runs with too close a teacher, too high a
    rate or no warm-up all fell below half of their first effective rank, and no healthy one did (docs/results); it is
    not known of long runs, so it is said and stops nothing.

    Args:
        start_step: updates before which no spread is judged.
        patience: unhealthy logs in a row after which the run stops, or is warned of.
        min_target_std, min_prediction_std: lower limits of the spreads.
        min_utterance_std: lower limit of those of whole samples, which are means over time and smaller.
        min_position_share: lower limit of position_std / target_std.
        min_rank_share: lower limit of effective_rank / the first one logged.
        utterance_only: the loss of positions has no weight.
        modality: of a joint run, whose numbers are judged.
    """

    start_step: int = 5000
    patience: int = 3
    min_target_std: float = 0.1
    min_prediction_std: float = 0.01
    min_utterance_std: float = 0.01
    min_position_share: float = 0.1
    min_rank_share: float = 0.5
    utterance_only: bool = False
    modality: str = ""
    explanation: str | None = None  # set when the run was stopped

    def __post_init__(self) -> None:
        self.unhealthy_since: int | None = None
        self.strikes = 0
        self.warned_of_rank = False
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

    def lost_rank(self, ranks: Sequence[float]) -> bool:
        """Whether of all effective ranks logged so far the last `patience` are below the share of the first."""
        recent = ranks[1:][-self.patience :]
        return len(recent) == self.patience and max(recent) < self.min_rank_share * ranks[0]

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs_of(logs or {}, self.modality)
        if "effective_rank" in logs and not self.warned_of_rank:
            self._watch_rank(state)
        if not self.utterance_only:
            self._watch_utterances(state, logs.get("utterance_target_std", math.nan))
        if "target_std" not in logs or state.global_step < self.start_step:
            return
        found = self.findings(logs)
        if not found:
            self.unhealthy_since, self.strikes = None, 0
            return
        self.strikes += 1
        self.unhealthy_since = self.unhealthy_since or state.global_step
        control.should_save = False
        if self.strikes < self.patience:
            logger.warning(
                f"step {state.global_step}: {'; '.join(found)}. {self.strikes} of {self.patience} such logs."
            )
            return
        self.explanation = (
            f"The representation has collapsed: at step {state.global_step} {' and '.join(found)}, for {self.strikes} "
            f"logs in a row since step {self.unhealthy_since}. The run was stopped; nothing was saved since then.\n"
            f"{REMEDIES}"
        )
        logger.error(self.explanation)
        control.should_training_stop = True

    def _watch_rank(self, state: TrainerState) -> None:
        name = f"{prefix_of(self.modality)}effective_rank"
        ranks = [row[name] for row in state.log_history if math.isfinite(row.get(name, math.nan))]
        self.warned_of_rank = self.lost_rank(ranks)
        if self.warned_of_rank:
            logger.warning(
                f"step {state.global_step}: {name} = {ranks[-1]:.1f}, at first {ranks[0]:.1f}, and below "
                f"{self.min_rank_share:g} of it for {self.patience} logs. The targets use ever fewer directions, "
                f"which the spreads do not show. The run goes on.\n{REMEDIES}"
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
