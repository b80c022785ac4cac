"""The trials of a sweep: each is a whole run of run.py, started by `Trainer.hyperparameter_search`.

`hyperparameter_search` sets attributes of `TrainingArguments` and calls `train` once a trial. The fields of a sweep
also change the model, the objective and the masks, so `SweepTrainer.train` makes everything anew, as run.py does.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ..arguments import Run
from ..checkpoints.run_folder import DISK_ERRORS
from ..checkpoints.storage import StorageError
from ..console.help import EXIT_COLLAPSED, EXIT_DIVERGED, EXIT_PREEMPTED
from ..data.build import PretrainingData
from ..data.examples import PretrainingDataset
from ..evaluation.probe import batches_of, extract_features, subset, teacher_encoder
from ..monitoring.health import FILE
from ..monitoring.metrics import Moments


if TYPE_CHECKING:
    import optuna


logger = logging.getLogger(__name__)

FEATURES_OF, AT_ONCE = 1000, 16  # training examples whose features are compared at the end of a trial
ENDED = {EXIT_COLLAPSED: "collapsed", EXIT_DIVERGED: "diverged"}
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


class SweepTrainer(Trainer):
    """`Trainer` of which only `hyperparameter_search` is called; its `train` is one trial.

    Args:
        arguments: of a run of the sweep, with the folder of the sweep; they say which device.
        resolve: values of a trial and its run folder -> the checked recipe.
        prepare, pretrain: of run.py.
        measure: what the trials are compared by.
        pruning: whether trials are reported to the pruner.
    """

    objective: float | None  # of the newest trial; `hyperparameter_search` reads it

    def __init__(
        self,
        arguments: TrainingArguments,
        resolve: Callable[[Mapping[str, Any], Path], Run],
        prepare: Callable[[Run, contextlib.ExitStack], tuple[PretrainingData, str | None]],
        pretrain: Callable[..., int],
        *,
        measure: str,
        pruning: bool,
    ):
        none: Any = nn.Module()  # each run builds its own
        super().__init__(args=arguments, model_init=lambda: none)
        self.folder, self.resolve, self.prepare, self.pretrain = (
            Path(str(arguments.output_dir)),
            resolve,
            prepare,
            pretrain,
        )
        self.measure, self.pruning = measure, pruning

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, **kwargs: Any) -> TrainOutput:  # type: ignore[override]
        """Run a trial to its end, or from where it was interrupted; leaves its value in `self.objective`."""
        import optuna

        values = self.hp_space(trial)
        watch = Watch(self.measure, trial if self.pruning else None)
        trial.set_user_attr(STATE, RUNNING)
        state, message = RUNNING, None  # what a kill leaves
        try:
            self._run(values, self.folder / trial.user_attrs[RUN], watch)
            self.objective = self.compute_objective(watch.measures)
            state = "finished"
        except optuna.TrialPruned as pruned:
            state, message = "pruned", str(pruned)
            raise
        except SweepPreempted:
            state = PREEMPTED
            raise
        except StorageError:
            raise
        except TrialFailed as failed:
            state, message = failed.state, str(failed)
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                raise
            state, message = "failed", f"{type(error).__name__}: {error}"
            logger.warning("%s failed", trial.user_attrs[RUN], exc_info=not isinstance(error, ValueError))
            raise TrialFailed(message) from error
        finally:
            for key, value in ((STATE, state), (MESSAGE, message), (MEASURES, watch.measures)):
                trial.set_user_attr(key, value)
        return TrainOutput(0, 0.0, watch.measures)

    def _run(self, values: Mapping[str, Any], folder: Path, watch: "Watch") -> None:
        run = self.resolve(values, folder)
        with contextlib.ExitStack() as stack:
            data, checkpoint = self.prepare(run, stack)
            watch.data = data
            code = self.pretrain(run, data, checkpoint, (watch,))
        if code == EXIT_PREEMPTED:
            raise SweepPreempted("Stopped by a signal. The same command continues.")
        if code:
            raise TrialFailed(json.loads((folder / FILE).read_text(encoding="utf-8"))["message"], ENDED[code])
        if not math.isfinite(watch.measures.get(self.measure, math.nan)):
            found = ", ".join(f"{name} {value:.4g}" for name, value in watch.measures.items())
            raise TrialFailed(f"The run has no finite {self.measure}. It has {found}.")


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
    examples: Any = subset(cast(PretrainingDataset, data.train_dataset), FEATURES_OF, seed=0)  # type: ignore[arg-type]
    ranks = {}
    for name, encoder in (("student", model.base_model), ("teacher", teacher_encoder(model))):
        wanted = (encoder.main_input_name, "attention_mask")
        batches = batches_of(examples, data.collator)
        inputs = ({key: batch[key] for key in wanted if key in batch} for batch in batches)
        features = torch.from_numpy(extract_features(encoder, inputs)[0])  # (examples, dim)
        ranks[f"feature_rank_{name}"] = Moments.of(features, products=True).effective_rank().item()
    return ranks
