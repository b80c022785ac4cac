"""What `training.on_collapse` asks for: a run that collapses goes on at a lower rate, or restarts from a checkpoint.

A restart goes back to the newest checkpoint from the first half of the updates before the collapse, or to the oldest:
when a number falls below its limit, what was saved shortly before is damaged, too. Later checkpoints are removed. So
that there is one, the first update is saved.

A rescue is a row of the log, `{"rescues": how many so far}`, and the schedule's base rates. Checkpoints hold both, so
a run that is continued knows of it. A restart lowers the rate, too: the same data and masks would collapse again.
"""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..shared_arguments import LOWER_RATE, RESTART


logger = logging.get_logger(__name__)

COUNT = "rescues"
RATE = 0.1  # what a rescue leaves of the learning rate
MOST = 2  # rescues of a process; then the run stops
GRACE = 8  # logs that a run has to recover in after its rate was lowered


class Rescue(TrainerCallback):
    """Tried by the guards, which say when; a restart is carried out by the trainer, see [`Data2VecTrainer.train`].

    Args:
        trainer: whose run it is.
        how: `lower_rate` or `restart_from_checkpoint`.

    Attributes:
        count: rescues of the run so far.
        restarting: the training was stopped to be restarted.
        last_good: the update up to which checkpoints are restarted from.
    """

    def __init__(self, trainer: Any, how: str):
        self.trainer, self.how = trainer, how
        self.count = 0
        self.restarting = self._saved = False
        self.last_good = 0
        self._last = 0  # logs since the last rescue

    @property
    def recovering(self) -> bool:
        """Whether a rescue was so lately that nothing can be said of it."""
        return self.how == LOWER_RATE and self.count > 0 and self._last < GRACE

    def attempt(self, why: str, since: int, control: TrainerControl) -> str | None:
        """Rescue the run, which fell at the update `since`; returns why that cannot be, `None` where it was done."""
        if self.count >= MOST:
            return f"{self.count} rescues did not help."
        if self.how == RESTART and not self._saved:
            return "There is no checkpoint to restart from."
        self.count += 1
        if self.how == RESTART:
            self.restarting = control.should_training_stop = True
            self.last_good = since // 2
            logger.warning(f"{why} The run goes back to update {self.last_good}, or the nearest checkpoint.")
        else:
            self._lower(1)
            logger.warning(f"{why} The run goes on.")
        return None

    def _lower(self, times: int) -> None:
        """Lower the rate of every group, now and in the rest of the schedule, and log it."""
        schedule = self.trainer.lr_scheduler
        schedule = getattr(schedule, "scheduler", schedule)  # in accelerate's wrapping
        share = RATE**times
        schedule.base_lrs = [rate * share for rate in schedule.base_lrs]
        for group in self.trainer.optimizer.param_groups:
            group["lr"] *= share
        self._last = 0
        logger.warning(f"The learning rate is lowered to {RATE**self.count:g} of the recipe's.")
        self.trainer.log({COUNT: self.count})

    # ---- called by the `Trainer` ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._saved = state.global_step > 0
        rows = [row for row in state.log_history if COUNT in row or "loss" in row]
        known = max((int(row[COUNT]) for row in rows if COUNT in row), default=0)
        self._last = next((past for past, row in enumerate(reversed(rows)) if COUNT in row), len(rows))
        if self.restarting:
            self.restarting = False
            self._lower(self.count - known)
        else:
            self.count = known

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._last += "loss" in (logs or {})

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save |= self.how == RESTART and state.global_step == 1

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved = True
