"""A model of ours as a checkpoint that the original code reads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..configuration_objective import ObjectiveConfig
from .original import check_expressible
from .source import Tensors, Values
from .sources import SOURCES
from .weights import original_tensors


SHAPENET_UPDATES = 81  # of an epoch of Point2Vec's recipe


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
    if not objective.original_padding and source.layout != "lightning":  # which has no padded groups
        notes.append("objective.original_padding = False: in the original padding takes part in the targets.")
    return LAYOUTS[source.layout](tensors, source.teacher, cfg, objective, num_updates), notes


def _fairseq(
    tensors: Tensors, prefix: str, cfg: Values, objective: ObjectiveConfig, num_updates: int
) -> dict[str, Any]:
    student, teacher = _apart(tensors, prefix)
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
        "model": student | {prefix[:-1]: teacher},
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
    }


def _data2vec_vision(tensors: Tensors, prefix: str, cfg: Values, *_: Any) -> dict[str, Any]:
    student, teacher = _apart(tensors, prefix)
    return {"model": student, "model_ema": teacher, "args": cfg, "epoch": 0}


def _lightning(
    tensors: Tensors, prefix: str, cfg: Values, objective: ObjectiveConfig, num_updates: int
) -> dict[str, Any]:
    """The student is there twice, as in the original. Epochs are of ShapeNet's size where updates allow."""
    epoch = max(round(num_updates / SHAPENET_UPDATES), min(num_updates, 1))
    per_epoch = num_updates / epoch if epoch else SHAPENET_UPDATES
    again = {
        f"teacher.online_model.{n.removeprefix('student.')}": t for n, t in tensors.items() if n.startswith("student.")
    }
    counted = {"teacher.initted": torch.ones(1), "teacher.step": torch.tensor([num_updates])}
    return {
        "epoch": epoch,
        "global_step": num_updates,
        "pytorch-lightning_version": "1.7.7",
        "state_dict": tensors | again | counted,
        "hparams_name": "kwargs",
        "hyper_parameters": cfg | {"d2v_ema_tau_epochs": objective.ema_anneal_steps / per_epoch},
    }


LAYOUTS: dict[str, Callable[..., dict[str, Any]]] = {
    "fairseq": _fairseq,
    "data2vec_vision": _data2vec_vision,
    "lightning": _lightning,
}


def _apart(tensors: Tensors, prefix: str) -> tuple[Tensors, Tensors]:
    """The student's and the teacher's, these without `prefix`."""
    student = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    return student, {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
