"""`data2vec.finetune` and `data2vec.probe`: a run of a recipe from Python, with the fields of the command line."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ..pretraining.console.libraries import quiet_libraries
from ..pretraining.modalities.build import modality_of
from ..pretraining.model_section import open_config
from ..pretraining.python_api import RunResult
from ..pretraining.recipe import CHECKPOINT, as_arguments, override
from .arguments import FineTuneRun, field_names, resolve
from .command_line import SECTIONS, read_command, script_of
from .probe.runner import probe as run_probe
from .runner import Preempted, fine_tune


SPLITS = ("train", "validation", "test")
PROBES = {"audio": "probe_audio", "image": "probe_vision", "text": "probe_text"}  # by what an encoder reads


def finetune(
    recipe: str | Path,
    *,
    model: str | Path | None = None,
    data: str | Path | Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    **fields: Any,
) -> RunResult:
    """Fine-tune and evaluate, as `data2vec finetune RECIPE --field value` does.

    Args:
        recipe: by name or path; it says the task.
        model: the encoder, a folder or a Hub id.
        data: a folder with the sub-folders train, test and, if there is one, validation; a file or folder of training
            examples alone; a dataset on the Hub with the splits train and test; or a mapping of fields of the section
            `data`. The recipe's own splits are then left out.
        output_dir: the run folder, by default the recipe's.
        fields: as in [`pretrain`].

    Raises:
        ValueError: the recipe, a field, the data or the folder is refused; the message names the fix.
        FileNotFoundError: no such recipe.
    """
    script, run = _resolve(recipe, model, data, output_dir, fields)
    if getattr(getattr(run.task, "sweep", None), "tasks", None) is not None:
        raise ValueError(f"{recipe} is a sweep over tasks: use data2vec finetune, or name data.task_name.")
    try:
        results, state = getattr(script, "PERFORM", fine_tune)(run, script.TASK), "finished"
    except Preempted:
        results, state = {}, "preempted"
    return RunResult(run.folder, results, state)


def probe(
    model: str | Path,
    data: str | Path | Mapping[str, Any],
    *,
    recipe: str | Path | None = None,
    output_dir: str | Path | None = None,
    **fields: Any,
) -> RunResult:
    """Ask a frozen encoder what it knows, layer by layer, as `data2vec probe RECIPE --field value` does.

    Args:
        model, data, output_dir, fields: as in [`finetune`].
        recipe: by default the one of what the encoder reads.
    """
    if recipe is None:
        reads = modality_of(open_config(str(model))).kind.column
        if reads not in PROBES:
            raise ValueError(f"recipe is missing: there is none for encoders of {reads}. Name one.")
        recipe = PROBES[reads]
    _, run = _resolve(recipe, model, data, output_dir, fields)
    return RunResult(run.folder, run_probe(run))


def _resolve(
    recipe: str | Path,
    model: str | Path | None,
    data: str | Path | Mapping[str, Any] | None,
    output_dir: str | Path | None,
    fields: Mapping[str, Any],
) -> tuple[Any, FineTuneRun]:
    """The script of a recipe's task, and the checked run."""
    quiet_libraries()
    name = script_of([str(recipe)])
    script = import_module(f"{__package__}.{name.removesuffix('.py')}")
    sections, _ = read_command(name, [str(recipe)])
    if model is not None:
        sections["model"][CHECKPOINT] = str(model)
    if data is not None:
        kept = {name: value for name, value in sections["data"].items() if name not in SPLITS}
        sections["data"] = kept | (dict(data) if isinstance(data, Mapping) else splits_of(str(data)))
    if output_dir is not None:
        sections["training"]["output_dir"] = str(output_dir)
    words = as_arguments(fields, SECTIONS)
    return script, resolve(override(sections, words, field_names(script.TASK)), script.TASK)


def splits_of(data: str) -> dict[str, dict[str, str]]:
    """`data` as train, validation and test of a recipe."""
    path = Path(data)
    if path.is_file() or (path.is_dir() and not (path / "train").is_dir() and not any(path.rglob("*.parquet"))):
        return {"train": {"path": data}}
    names = [name for name in SPLITS if (path / name).is_dir()] if (path / "train").is_dir() else ["train", "test"]
    return {name: {"path": data, "split": name} for name in names}
