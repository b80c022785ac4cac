"""`ResumableTrainer`: a `Trainer` that can be killed at any moment and repeats exactly what it would have done.

What it changes: checkpoints appear whole or not at all (see storage.py); the losses not yet logged are part of a
checkpoint; a run that had made its last step makes no other one; and SIGTERM or SIGINT ends a run with a checkpoint.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..engine.allocator import keep_freed_memory
from ..engine.async_scalar import AsyncScalar
from ..engine.batch_layout import Layout, changes
from ..engine.distributed import EngineTrainer
from ..shared_arguments import SharedArguments
from .hub_push import push_checkpoint, push_finished
from .run_cost import ComputeCallback
from .run_files import write_text
from .signals import Preemption, PreemptionCallback
from .storage import (
    WRITING,
    StorageError,
    is_write_error,
    publish,
    read_manifest,
    recover,
    rotate,
    storage_error,
)


logger = logging.getLogger(__name__)

UNLOGGED = "unlogged_{}.json"  # of a rank


def find_checkpoint(args: TrainingArguments) -> str | None:
    """Tidy up the run folder after a kill and return the newest intact checkpoint, the same on every rank.

    Raises:
        ValueError: there are checkpoints, but none is intact.
        StorageError: the folder cannot be tidied up.
    """
    found: list[Any] = [None, None, None]  # the checkpoint, what is wrong with them, what is wrong with the folder
    folder = Path(str(args.output_dir))
    if args.process_index == 0 and folder.is_dir():
        try:
            checkpoint = recover(folder)
            found[0] = None if checkpoint is None else str(checkpoint)
        except ValueError as error:
            found[1] = str(error)
        except OSError as error:
            found[2] = str(storage_error(folder, error))
    broadcast_object_list(found)
    for problem, kind in zip(found[1:], (ValueError, StorageError), strict=True):
        if problem is not None:
            raise kind(problem)
    return found[0]


class ResumableTrainer(EngineTrainer):
    """A `Trainer` whose `train` continues exactly from what [`find_checkpoint`] returns.

    Attributes:
        preempted: the last `train` ended early because a signal told it to.
        identity: what its checkpoints say of the run, see [`run_folder.identity_of`].
    """

    args: SharedArguments

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.preempted = False
        self.identity: dict[str, Any] = {}
        self._signals = Preemption()
        self._votes: AsyncScalar | None = None  # ranks that were told to stop, as of the last exchange
        self._resumed_from: Path | None = None
        self.add_callback(_Continue(self))
        self.add_callback(PreemptionCallback(self))
        self.add_callback(ComputeCallback())

    # ---- what differs between pretraining and fine-tuning ----

    def layout(self) -> Layout:
        """How the batches of this run are split; stored in its checkpoints."""
        raise NotImplementedError

    def write_finished(self, folder: Path) -> None:
        """Write what a run leaves at the top of its folder; all ranks call it."""
        raise NotImplementedError

    def save_more(self, folder: Path) -> None:
        """Write what a checkpoint holds beside `Trainer`'s files; every rank calls it."""
        path = folder / UNLOGGED.format(self.args.process_index)
        path.write_text(json.dumps(self.unlogged()), encoding="utf-8")

    def load_more(self, folder: Path, ranks: int) -> None:
        """Read what `save_more` wrote when there were so many `ranks`."""
        own = [self.args.process_index] if ranks == self.args.world_size else range(ranks)
        files = [folder / UNLOGGED.format(rank) for rank in own]
        self.restore_unlogged([json.loads(file.read_text(encoding="utf-8")) for file in files])

    # ---- starting ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:  # type: ignore[override]
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(self.args)
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.preempted, self._votes, self._signals = False, None, Preemption()
        if self.args.device.type == "cpu" and self.args.keep_freed_memory:
            keep_freed_memory()
        with self._signals:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    # ---- the losses since the last log (private: nothing else of `Trainer` holds them, and they start at 0) ----

    def unlogged(self) -> dict[str, Any]:
        """What this rank has summed up since the last log: JSON values that `restore_unlogged` takes."""
        return {
            "loss": self._tr_loss.item(),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
        }

    def restore_unlogged(self, ranks: list[dict[str, Any]]) -> None:
        """Continue from what `unlogged` returned: this rank's own, or every rank's where their number was another."""
        self._tr_loss += sum(rank["loss"] for rank in ranks) / len(ranks)
        self._total_loss_scalar = ranks[0]["logged_loss"]
        self._globalstep_last_logged = ranks[0]["logged_step"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:  # of the whole run, not of the part since the last start
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    # ---- stopping ----

    def vote(self, values: Tensor) -> Tensor:
        """Sum (count,) numbers over ranks and, in the same exchange, tell each other who was told to stop."""
        if self.args.world_size == 1:
            return values
        told = values.new_full((1,), self._signals.received is not None)
        total = self.accelerator.reduce(torch.cat((values, told)), "sum")
        self._votes = AsyncScalar(total[-1])
        return total[:-1]

    def told_to_stop(self) -> bool:
        """Whether this run shall stop after this step; alike on every rank."""
        if self.args.world_size == 1:
            return self._signals.received is not None
        return self._votes is not None and bool(self._votes.tolist())

    # ---- saving ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # private: `Trainer`'s is not atomic
        """What `Trainer` saves, but aside; then visible at once, and pushed. Raises StorageError, on every rank."""
        folder, state = Path(str(self.args.output_dir)), self.state
        final = folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        staged = folder / WRITING / final.name
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(final)
        self.store_flos()

        def write() -> None:
            self.save_model(str(staged), _internal_call=True)
            self._save_optimizer_and_scheduler(str(staged))
            self._save_scaler(str(staged))
            self._save_rng_state(str(staged))  # makes the folder where another process has not yet
            self.save_more(staged)
            if self.args.should_save:
                parts: Any = (*self.callback_handler.callbacks, self.control)
                stateful: Any = {type(x).__name__: x.state() for x in parts if isinstance(x, ExportableState)}
                state.stateful_callbacks = stateful
                state.save_to_json(str(staged / TRAINER_STATE_NAME))

        def make_visible() -> None:
            if self.args.should_save:
                facts = {"step": state.global_step, "run": self.identity, "layout": self.layout().to_dict()}
                publish(staged, final, facts)
                rotate(folder, self.args.save_total_limit, state.best_model_checkpoint)

        self._on_all_ranks(write, final, exchanges=self.is_fsdp_enabled or self.is_deepspeed_enabled)
        self._on_all_ranks(make_visible, final)
        if self.args.push_to_hub and self.is_world_process_zero():
            push_checkpoint(self, final)

    def _on_all_ranks(self, write: Callable[[], None], what: Path, *, exchanges: bool = False) -> None:
        """Call `write` on every rank, wait for all, and raise StorageError on all where one could not.

        Args:
            exchanges: the ranks wait for each other inside of `write`, so that one that fails cannot tell the others:
                it ends, and the launcher ends them.
        """
        problem: BaseException | None = None
        try:
            write()
        except (Exception, CheckpointException) as error:
            if not is_write_error(error):
                raise
            problem = error
            shutil.rmtree(Path(str(self.args.output_dir)) / WRITING, ignore_errors=True)  # makes room for the logs
            if exchanges:
                raise storage_error(what, error) from error
        failed = self.accelerator.reduce(torch.tensor(float(problem is not None), device=self.args.device), "sum")
        if problem is not None:
            raise storage_error(what, problem) from problem
        if failed:
            raise StorageError(f"{what} could not be written by another process, whose message says why.")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the whole model; at the top of the run folder what `write_finished` leaves there."""
        top = Path(str(self.args.output_dir))
        if output_dir is not None and Path(output_dir).absolute() != top.absolute():
            super().save_model(output_dir, _internal_call)
            return
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self._on_all_ranks(lambda: self.write_finished(top), top / "model.safetensors", exchanges=sharded)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def push_to_hub(  # type: ignore[override]
        self, commit_message: str = "End of training", revision: str | None = None, **card: Any
    ) -> Any:
        """Save and upload the model files of the run folder; `card` is for `create_model_card`."""
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(model_name=Path(self.args.hub_model_id or str(self.args.output_dir)).name, **card)
        return push_finished(self, commit_message, revision)

    def save_state(self) -> None:
        if self.is_world_process_zero():
            aside = Path(str(self.args.output_dir)) / WRITING
            aside.mkdir(parents=True, exist_ok=True)
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
            text = (aside / TRAINER_STATE_NAME).read_text(encoding="utf-8")
            write_text(aside.parent / TRAINER_STATE_NAME, text)
            shutil.rmtree(aside, ignore_errors=True)


class _Continue(TrainerCallback):
    """After a resume: restores the losses not yet logged, and says what cannot be repeated exactly."""

    def __init__(self, trainer: ResumableTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.should_save:  # what a killed write left, where nobody called `find_checkpoint`
            shutil.rmtree(Path(str(args.output_dir)) / WRITING, ignore_errors=True)
        checkpoint = self.trainer._resumed_from
        if checkpoint is None:
            return
        try:
            before = Layout.from_dict(read_manifest(checkpoint)["layout"])
        except (ValueError, KeyError):
            logger.warning("%s was not written by this package: its losses since the last log are lost.", checkpoint)
            return
        self.trainer.load_more(checkpoint, before.processes)
        if state.is_world_process_zero:
            for sentence in changes(before, self.trainer.layout()):
                logger.warning("Continued from %s. %s", checkpoint.name, sentence)
