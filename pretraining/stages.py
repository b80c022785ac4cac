"""Stages: modality after modality on one trunk, without forgetting those before (MedCoSS, arXiv 2311.17597).

    for each modality of stages.order:  a joint run of it and of what is kept of those before, in OUTPUT_DIR/N_NAME
                                        -> its buffer, OUTPUT_DIR/buffers/NAME: a few examples, chosen by features
    OUTPUT_DIR/stages.json              what probes found after each stage, and what was forgotten

Each stage starts from the encoders of the one before, with new decoders. The same command continues where it stopped,
inside a stage exactly, and passes over stages that are finished.
"""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..modeling import JointConfig, JointModel
from .arguments import Run, resolve
from .buffer import write_buffer
from .checkpoints.run_files import write_text
from .checkpoints.storage import WRITING, move_files
from .console.redact import mask_secrets
from .modalities.build import PretrainingData
from .recipe import CHECKPOINT, MODALITIES, SHARED_FRONT_ENDS, STAGES
from .stage_arguments import StagesArguments


BUFFERS, SUMMARY = "buffers", "stages.json"


@dataclass(frozen=True)
class Stage:
    """One modality's turn."""

    name: str
    folder: Path
    before: Path | None  # the folder of the stage before
    recipe: dict[str, Any]  # a joint one


def stages_of(recipe: Mapping[str, Any], args: StagesArguments) -> list[Stage]:
    """The stages, each as a joint recipe of its own."""
    base = Path(str(recipe["training"]["output_dir"]))
    folders = [base / f"{place}_{name}" for place, name in enumerate(args.order, start=1)]
    stages = []
    for number, name in enumerate(args.order):
        own = copy.deepcopy({section: fields for section, fields in recipe.items() if section != STAGES})
        before = folders[number - 1] if number else None
        parts = own[MODALITIES]
        old = args.order[:number] if args.rehearsal != "none" else []
        own[MODALITIES] = {kept: _rehearsed(parts[kept], args, base, before, kept) for kept in old}
        own[MODALITIES][name] = parts[name]
        if groups := own["model"].get(SHARED_FRONT_ENDS):
            there = [kept for kept in args.order if kept in own[MODALITIES]]
            known = ([kept for kept in there if kept in group] for group in groups)
            own["model"] = {**own["model"], SHARED_FRONT_ENDS: [group for group in known if group]}
        own["training"] |= args.training.get(name, {}) | {"output_dir": str(folders[number])}
        if before is not None:
            own["model"] = {**own["model"], CHECKPOINT: str(before)}
        stages.append(Stage(name, folders[number], before, own))
    return stages


def _rehearsed(part: dict[str, Any], args: StagesArguments, base: Path, before: Path | None, name: str) -> Any:
    """A modality that is not new: its buffer takes the place of its data, and a frozen teacher that of its targets."""
    model = {field: value for field, value in part.get("model", {}).items() if field != CHECKPOINT}
    # rows may name files wherever the sources, which were checked, have them
    source = {"path": str(base / BUFFERS / name), "root": "/"}
    data = part["data"] | {"sources": [source], "mixup": args.mixup}
    if "tokenizer" in data:  # which may have been trained on what is no longer there
        data["tokenizer"] = str(Path(str(before)) / name)
    objective = part.get("objective", {})
    if args.rehearsal == "distillation":
        objective = objective | {"target": "same_view", "ema_scope": "frozen", "cls_loss_weight": 0.0}
    return part | {"model": model, "data": data, "objective": objective}


def run_stages(
    recipe: Mapping[str, Any], train: Callable[[Run], int], open_data: Callable[[Run], PretrainingData]
) -> int:
    """Train all stages that are not finished; returns the exit code of the last.

    Args:
        train: trains a run to its end; returns its exit code.
        open_data: of a run.

    Raises:
        ValueError: the recipe is invalid, that of a later stage too.
    """
    args = StagesArguments.from_dict(recipe[STAGES])
    args.check(recipe)
    resolve({section: fields for section, fields in recipe.items() if section != STAGES})
    stages = stages_of(recipe, args)
    for stage in stages:
        run = resolve(stage.recipe)
        with run.training.main_process_first(desc="looking for the stage"):
            finished = is_finished(run)
        if not finished:
            code = train(run)
            if code:
                return code
        last = stage is stages[-1]
        buffer = stage.folder.parent / BUFFERS / stage.name
        wanted = args.rehearsal != "none" and not last and not buffer.exists()
        data = open_data(run) if wanted else None
        with run.training.main_process_first(desc="choosing what is kept"):
            if run.training.process_index == 0:
                if stage.before is not None:
                    carry(stage.before, stage.folder)
                if data is not None:
                    _keep(run, stage, data.parts[stage.name], buffer, args)
                if last:
                    write_text(stage.folder.parent / SUMMARY, json.dumps(summary(stages), indent=2) + "\n")
    return 0


def is_finished(run: Run) -> bool:
    """Whether a run has made all its updates and left its encoders."""
    state, steps = run.folder / "trainer_state.json", run.training.max_steps
    if not (state.is_file() and (run.folder / "config.json").is_file()):
        return False
    made: int = json.loads(state.read_text(encoding="utf-8"))["global_step"]
    return steps <= 0 or made >= steps


def _keep(run: Run, stage: Stage, data: PretrainingData, buffer: Path, args: StagesArguments) -> None:
    """The buffer of the stage's own modality."""
    part = stage.recipe[MODALITIES][stage.name]
    facts = {"modality": stage.name, "encoder": str(stage.folder), "sources": mask_secrets(part["data"])["sources"]}
    encoder: Any = JointModel.from_pretrained(stage.folder, modality=stage.name)
    dataset: Any = data.train_dataset
    shares = {"buffer": args.buffer, "clusters": args.clusters}
    write_buffer(encoder.to(run.training.device), dataset, buffer, facts, **shares, seed=run.training.seed)


def carry(before: Path, folder: Path) -> None:
    """Put the encoders of modalities that a stage left out, as without rehearsal, into its folder, on its trunk.

    They are written aside, and then replace what was there file by file: a kill leaves a folder that opens.
    """
    configs: Any = [JointConfig.from_pretrained(path) for path in (before, folder)]
    formerly, known = (config.modalities for config in configs)
    missing = [name for name in formerly if name not in known]
    if not missing:
        return
    former, latter = (JointModel.from_pretrained(path) for path in (before, folder))
    every = {name: formerly[name] for name in missing} | known
    whole = JointModel(JointConfig.from_dict(latter.config.to_dict() | {"modalities": every}))
    whole.load_state_dict(former.state_dict() | latter.state_dict())
    aside = folder / WRITING
    shutil.rmtree(aside, ignore_errors=True)
    whole.save_pretrained(aside)
    for name in missing:
        shutil.copytree(before / name, aside / name)
    move_files(aside, folder)


def summary(stages: list[Stage]) -> dict[str, Any]:
    """What the online probes found after each stage, in shares, and how much less at the end than after its own."""
    after: dict[str, dict[str, float]] = {}
    for stage in stages:
        log = json.loads((stage.folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        ending = "/probe/knn_student"
        after[stage.name] = {
            name.removesuffix(ending): value for row in log for name, value in row.items() if name.endswith(ending)
        }
    end = after[stages[-1].name]
    forgotten = {name: found[name] - end[name] for name, found in after.items() if name in found and name in end}
    return {"knn_after": after, "forgotten": forgotten}
