"""Try many recipes: `data2vec sweep RECIPE.yaml [--field value ...]`.

    recipe -> space -> trials (run-0/, run-1/, ...: each a run of run.py) -> sweep.json, best.yaml

Optuna draws the values. The same command resumes an interrupted sweep, the trial that was
running included; what it draws does not depend on the interruption. A trial that is refused, fails, collapses or
diverges is recorded and the sweep goes on. One process on one device, and one sweep in a folder.

Exit codes as run.py's: 0 done; 2 refused, or no trial finished; 4 preempted; 5 could not be written.
"""

import contextlib
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from data2vec.pretraining import recipe as recipe_file
from data2vec.pretraining.arguments import Run, field_names, resolve
from data2vec.pretraining.checkpoints.run_files import write_text
from data2vec.pretraining.checkpoints.run_folder import check_same_recipe, identity_of, write_run_files
from data2vec.pretraining.checkpoints.storage import claimed, exit_code, is_disk_error
from data2vec.pretraining.command_line import SWEEP, SWEEP_SECTIONS, read_sweep, require_optuna, sweep_fields
from data2vec.pretraining.console.help import EXIT_COLLAPSED, EXIT_DIVERGED, EXIT_PREEMPTED, end
from data2vec.pretraining.console.redact import mask_secrets
from data2vec.pretraining.engine.launch_check import check_launch
from data2vec.pretraining.monitoring.health import FILE as HEALTH
from data2vec.pretraining.monitoring.health import finite
from data2vec.pretraining.run import open_data, prepare, pretrain
from data2vec.pretraining.sweep.arguments import PRUNERS, REDUCTION, SweepArguments
from data2vec.pretraining.sweep.fields import own_values, without_meaning
from data2vec.pretraining.sweep.trials import MEASURES, MESSAGE, STATE, SweepPreempted, TrialFailed, Watch


if TYPE_CHECKING:
    import optuna


logger = logging.getLogger(__name__)

STORAGE, RESULTS, BEST = "optuna.db", "sweep.json", "best.yaml"
FREE = ("trials", "output_dir")  # fields that may change when a sweep continues


def main(argv: Sequence[str] | None = None) -> int:
    return ending(lambda: search(parse_recipe(argv)).report())


def search(recipe: Mapping[str, Any]) -> "Sweep":
    """Run all trials of a sweep in its folder; what was done before is not done again."""
    with contextlib.ExitStack() as stack:
        sweep = Sweep(recipe)
        open_data(sweep.base)  # what no trial could do without is refused before there is one
        check_same_recipe(sweep.folder, identity_of(sweep.recipe, SWEEP_SECTIONS, FREE), FREE)
        stack.enter_context(claimed(sweep.folder))
        write_run_files(sweep.folder, sweep.recipe)
        sweep.carry_out()
        return sweep


def ending(work: Callable[[], int]) -> int:
    """The exit code of a command, with what went wrong on standard error."""
    try:
        return work()
    except SweepPreempted as error:
        return end(EXIT_PREEMPTED, error)
    except Exception as error:
        ended = exit_code(error)
        if ended is None:
            raise
        return end(ended, error)


def parse_recipe(
    argv: Sequence[str] | None, read: Callable[..., Any] = read_sweep, of_sweep: Callable[[], list[str]] = sweep_fields
) -> dict[str, Any]:
    """`RECIPE.yaml [--field value ...]` as sections, with `sweep` among them, whose fields are `of_sweep`.

    Raises:
        ValueError: an unknown field; the message names the fix.
        FileNotFoundError: no such recipe.
    """
    recipe, overrides = read(argv)

    def fields_of(section: str, recipe: Mapping[str, Any]) -> Collection[str]:
        return of_sweep() if section == SWEEP else field_names(section, recipe)

    return recipe_file.override(recipe, overrides, fields_of)


class Sweep:
    """A sweep in its folder.

    Args:
        recipe: the sections, `sweep` among them.

    Raises:
        ValueError: an invalid field, or a library that is not installed.
    """

    def __init__(self, recipe: Mapping[str, Any]):
        require_optuna()
        self.recipe = dict(recipe)
        self.plan = SweepArguments.from_dict(recipe[SWEEP])
        self.run_recipe = {name: section for name, section in recipe.items() if name != SWEEP}
        self.base = resolve(self.run_recipe)
        self.folder = self.base.folder
        check_launch(self.base.training)
        if self.base.training.world_size > 1 or self.base.training.n_gpu > 1:
            raise ValueError(
                "A sweep runs in one process on one device: start it with python and, where there are several GPUs, "
                "with CUDA_VISIBLE_DEVICES=0."
            )
        self.plan.check_measured(self.base)
        self.rungs = self.plan.rungs(self.base.training.max_steps)
        meaningless = without_meaning(self.base)
        for name, values in self.plan.space.items():  # a name or a value that no trial could have
            first = values["choices"][0] if "choices" in values else values["low"]
            try:
                self.trial_run({name: first}, self.folder)
            except ValueError as error:
                raise ValueError(f"sweep.space.{name}: {error}") from error
            field = ".".join(recipe_file.locate(name, self.run_recipe, field_names))
            if field in meaningless:
                raise ValueError(f"sweep.space.{name} has no meaning in this recipe: {meaningless[field]}. Remove it.")
        self.own = own_values(self.base, self.plan.space) if self.plan.include_recipe else None

    # ---- trials ----

    def recipe_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe with the values of a trial."""
        words = [word for name, value in values.items() for word in (f"--{name}", json.dumps(value))]
        return recipe_file.override(self.run_recipe, words, field_names)

    def trial_run(self, values: Mapping[str, Any], folder: Path) -> Run:
        """What a trial runs: no report and no push, which are the best recipe's."""
        recipe = self.recipe_of(values)
        recipe.pop("report", None)
        recipe["training"] |= {"output_dir": str(folder), "push_to_hub": False}
        return resolve(recipe)

    def carry_out(self) -> None:
        """Run the trials that are left. Raises SweepPreempted or StorageError where one could not go on."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # how a trial ended is said by the run and in sweep.json
        study = self.study()
        if self.own is not None and not study.trials:
            study.enqueue_trial(self.own)
        self.write_results(study)
        interrupted = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
        for number in range(len(ended_trials(study)), self.plan.trials):
            # a sampler of its own: what a trial draws depends on its number and the trials before alone
            seed = int(np.random.SeedSequence([self.plan.seed, number]).generate_state(1)[0])
            random = self.plan.sampler == "random"
            study.sampler = optuna.samplers.RandomSampler(seed) if random else optuna.samplers.TPESampler(seed=seed)
            # one that was interrupted continues, with its values and its run folder
            trial = optuna.trial.Trial(study, interrupted.pop()._trial_id) if interrupted else study.ask()
            self._carry_out(study, trial)
            self.write_results(study)

    def study(self) -> "optuna.Study":
        import optuna

        pruner: Any = optuna.pruners.NopPruner()
        if self.plan.pruner == "median":
            pruner = optuna.pruners.MedianPruner(n_warmup_steps=1)
        elif self.plan.pruner == "halving":
            pruner = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=self.rungs[0], reduction_factor=REDUCTION, min_early_stopping_rate=0
            )
        storage = f"sqlite:///{(self.folder / STORAGE).resolve()}"
        how: Any = {"storage": storage, "load_if_exists": True, "direction": self.plan.direction, "pruner": pruner}
        return optuna.create_study(study_name=SWEEP, **how)

    def _carry_out(self, study: "optuna.Study", trial: "optuna.Trial") -> None:
        """Run a trial to its end, or from where it was interrupted, and record how it ended."""
        from optuna import TrialPruned
        from optuna.trial import TrialState

        values = {name: draw(trial, name, space) for name, space in self.plan.space.items()}
        watch = Watch(self.plan.measure)
        if self.plan.pruner is not None:
            watch = Watch(self.plan.measure, trial, self.rungs, PRUNERS[self.plan.pruner])
        state, message = None, None  # of one that is interrupted
        told: dict[str, Any] = {"state": TrialState.FAIL}
        try:
            self._train(values, self.folder / run_name(trial), watch)
            state, told = "finished", {"values": watch.measures[self.plan.measure]}
        except TrialPruned as pruned:
            state, message, told = "pruned", str(pruned), {"state": TrialState.PRUNED}
        except TrialFailed as failed:
            state, message = failed.state, str(failed)
        except SweepPreempted:
            raise
        except Exception as error:
            if is_disk_error(error):
                raise
            state, message = "failed", f"{type(error).__name__}: {error}"
            logger.warning("%s failed", run_name(trial), exc_info=not isinstance(error, ValueError))
        for key, value in ((STATE, state), (MESSAGE, message), (MEASURES, watch.measures)):
            trial.set_user_attr(key, value)
        study.tell(trial, **told)

    def _train(self, values: Mapping[str, Any], folder: Path, watch: Watch) -> None:
        run = self.trial_run(values, folder)
        with contextlib.ExitStack() as stack:
            watch.data, checkpoint = prepare(run, stack)
            code = pretrain(run, watch.data, checkpoint, (watch,))
        if code == EXIT_PREEMPTED:
            raise SweepPreempted("Stopped by a signal. The same command continues.")
        if code:
            message = json.loads((folder / HEALTH).read_text(encoding="utf-8"))["message"]
            raise TrialFailed(message, {EXIT_COLLAPSED: "collapsed", EXIT_DIVERGED: "diverged"}[code])
        if not math.isfinite(watch.measures.get(self.plan.measure, math.nan)):
            found = ", ".join(f"{name} {value:.4g}" for name, value in watch.measures.items())
            raise TrialFailed(f"The run has no finite {self.plan.measure}. It has {found}.")

    # ---- results ----

    def write_results(self, study: "optuna.Study") -> None:
        """sweep.json, and best.yaml where a trial has finished."""
        ended = ended_trials(study)
        finished: list[Any] = [trial for trial in ended if trial.state.name == "COMPLETE"]
        best = None
        if finished:
            choose = max if self.plan.direction == "maximize" else min
            best = choose(finished, key=lambda trial: trial.value)
        results = {
            "measure": self.plan.measure,
            "direction": self.plan.direction,
            "best": None if best is None else run_name(best),
            "trials": [
                {
                    "run": run_name(trial),
                    "state": trial.user_attrs[STATE],
                    "message": trial.user_attrs[MESSAGE],
                    "values": trial.params,
                    "value": trial.value if trial in finished else None,
                    "reported": finite({str(step): value for step, value in trial.intermediate_values.items()}),
                    "measures": finite(trial.user_attrs[MEASURES]),
                }
                for trial in ended
            ],
        }
        write_text(self.folder / RESULTS, json.dumps(results, indent=1) + "\n")
        if best is not None:
            recipe = self.recipe_of(best.params)
            recipe["training"] |= {"output_dir": str(self.folder / "best")}
            title = f"# {run_name(best)} of this sweep: {self.plan.measure} = {best.value:.6g}\n"
            text = yaml.safe_dump(mask_secrets(recipe), sort_keys=False)
            write_text(self.folder / BEST, title + text)

    def report(self) -> int:
        """Print how the sweep ended; returns the exit code."""
        results = json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))
        trials = results["trials"]
        counts: dict[str, int] = {}
        for trial in trials:
            counts[trial["state"]] = counts.get(trial["state"], 0) + 1
        summary = ", ".join(f"{number} {state}" for state, number in counts.items())
        if results["best"] is None:
            raise ValueError(
                f"No trial has finished ({summary}). The first, {trials[0]['run']}: {trials[0]['message']} "
                f"{self.folder / RESULTS} says how each ended."
            )
        best = next(trial for trial in trials if trial["run"] == results["best"])
        values = ", ".join(f"{name} {value}" for name, value in best["values"].items())
        print(f"{summary}; the best is {best['run']}, {self.plan.measure} = {best['value']:.4g}, with {values}.")
        print(f"It again, with its report: accelerate launch pretraining/run.py {self.folder / BEST}")
        return 0


def draw(trial: "optuna.Trial", name: str, values: Mapping[str, Any]) -> Any:
    """A value of one field of the space."""
    if "choices" in values:
        return trial.suggest_categorical(name, values["choices"])
    low, high, log = values["low"], values["high"], values.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def run_name(trial: "optuna.Trial | optuna.trial.FrozenTrial") -> str:
    """The folder of a trial, in the sweep's."""
    return f"run-{trial.number}"


def ended_trials(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Those that are not to be continued."""
    return [trial for trial in study.trials if trial.state.is_finished()]
