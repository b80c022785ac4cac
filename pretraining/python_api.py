"""`data2vec.pretrain`: a run of a recipe from Python, with the same fields as on the command line."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .. import modeling
from .arguments import override, read_recipe, resolve
from .command_line import RECIPES, SECTIONS
from .console.libraries import quiet_libraries
from .recipe import CHECKPOINT, as_arguments, packaged
from .run import STATES, prepare
from .run import pretrain as train


Fields = Mapping[str, Any]
RECIPE_FILE = "recipe.yaml"  # of a run folder


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        folder: its run folder, which the Auto classes open.
        metrics: the last value of each number that was logged; of fine-tuning and probes what results.json holds.
        state: finished, or why it ended early: collapsed, diverged, preempted.
        history: every log, in order, as `Trainer` keeps them.
    """

    folder: Path
    metrics: dict[str, Any]
    state: str = "finished"
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def load_model(self, **how: Any) -> PreTrainedModel:
        """The model, of the class that was saved; `how` is given to `from_pretrained`."""
        (name,) = AutoConfig.from_pretrained(self.folder, trust_remote_code=False).architectures
        found = getattr(modeling, name, None) or getattr(transformers, name)
        model: PreTrainedModel = found.from_pretrained(self.folder, **how)
        return model


def pretrain(
    *,
    data: str | Path | Sequence[Any] | Fields | None = None,
    model: str | Path | Fields | None = None,
    recipe: str | Path | None = None,
    output_dir: str | Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **fields: Any,
) -> RunResult:
    """Pretrain, as `data2vec pretrain RECIPE --field value` does. An interrupted run in `output_dir` is continued.

    Args:
        data: a folder, file or dataset, a list of them, or a mapping of fields of the section `data`. One that is
            named stands in place of the recipe's, with its held-out and labelled sets.
        model: a recipe, by name or path; or an encoder to continue from, a folder or a Hub id; or a mapping of fields
            of the section `model`.
        recipe: the recipe, where `model` does not name it. Of an encoder that a run here left, that run's by default.
        output_dir: the run folder, by default the recipe's.
        callbacks: further ones, of `transformers`.
        fields: of the recipe, as on the command line: `max_steps=100`, `training={"learning_rate": 1e-4}`,
            `**{"objective.top_k_layers": 4}`.

    Raises:
        ValueError: the recipe, a field, the data or the folder is refused; the message names the fix.
        FileNotFoundError: no such recipe.
    """
    quiet_libraries()
    named = None if model is None or isinstance(model, Mapping) else str(model)
    words: list[str] = []
    if named is not None and recipe is None and _is_recipe(named):
        recipe, named = named, None
    if named is not None:
        words = as_arguments({CHECKPOINT: named}, ())
        own = Path(named) / RECIPE_FILE
        recipe = own if recipe is None and own.is_file() else recipe
    if recipe is None:
        raise ValueError("recipe is missing: name one, such as vision_small_v2, as recipe or as model.")
    sections = read_recipe(Path(recipe))
    if named is not None:  # the encoder's own shape counts
        sections["model"] = {}
    if isinstance(data, Mapping) or data is None:
        fields = {"data": data, **fields} if data else fields
    else:
        sections["data"] = {k: v for k, v in sections["data"].items() if k not in ("probe", "eval_sources", "sources")}
        sections.pop("report", None)
        several = data if isinstance(data, Sequence) and not isinstance(data, str) else [data]
        words += as_arguments(
            {"data.sources": [s if isinstance(s, Mapping) else {"path": str(s)} for s in several]}, ()
        )
    if isinstance(model, Mapping):
        fields = {"model": model, **fields}
    if output_dir is not None:
        fields = {**fields, "training.output_dir": str(output_dir)}
    run = resolve(override(sections, [*words, *as_arguments(fields, (*SECTIONS, "report"))]))
    log = _Log()
    with contextlib.ExitStack() as stack:
        opened, checkpoint = prepare(run, stack)
        code = train(run, opened, checkpoint, (*callbacks, log))
    metrics = {name: value for row in log.history for name, value in row.items()}
    return RunResult(run.folder, metrics, STATES[code], log.history)


def _is_recipe(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or packaged(name, RECIPES) is not None and not Path(name).is_dir()


class _Log(TrainerCallback):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.history = state.log_history
