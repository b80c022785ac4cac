"""A model of ours as a checkpoint that the original code reads."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from ..configuration_objective import ObjectiveConfig
from .original import check_expressible
from .sources import SOURCES
from .weights import original_tensors


def exported(model: PreTrainedModel, unused: dict[str, Tensor], num_updates: int) -> tuple[dict[str, Any], list[str]]:
    """What `torch.save` writes for the original code, and notes on what that will do a little differently.

    Args:
        unused: tensors that the original keeps and does not use, as the conversion from it left them.

    Raises:
        ValueError: an objective or weights that the original code cannot express.
    """
    config = model.config
    objective = ObjectiveConfig.from_dict(config.objective)
    check_expressible(objective, config)
    source = next((source for source in SOURCES.values() if source.is_ours(config)), None)
    if source is None or source.to_cfg is None:
        raise ValueError(f"a model of type {config.model_type!r} cannot be written: the original has none.")
    tensors, cfg = original_tensors(model, source, unused), source.to_cfg(config, objective)
    notes = []
    if source.epsilon not in (None, config.layer_norm_eps):
        notes.append(
            f"layer_norm_eps = {config.layer_norm_eps} becomes {source.epsilon}, which the original cannot change."
        )
    if not objective.original_padding:
        notes.append("objective.original_padding = False: in the original padding takes part in the targets.")
    student = {name: t for name, t in tensors.items() if not name.startswith(source.teacher)}
    teacher = {n.removeprefix(source.teacher): t for n, t in tensors.items() if n.startswith(source.teacher)}
    if source.separate_teacher:
        return {"model": student, "model_ema": teacher, "args": cfg, "epoch": 0}, notes
    history = {
        "criterion_name": "ModelCriterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {"best": None},
        "num_updates": num_updates,
    }
    updates = {"max_update": max(objective.ema_anneal_steps, num_updates)}
    return {
        "args": None,
        "cfg": {"dataset": {}, "criterion": {"_name": "model"}, "optimization": updates} | cfg,
        "model": student | {source.teacher[:-1]: teacher},
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
    }, notes
