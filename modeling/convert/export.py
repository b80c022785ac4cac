"""A model of ours as a checkpoint that the original code reads."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_objective import ObjectiveConfig
from .fairseq_objective import CFGS, SAMPLES, TASKS, check_expressible, export_notes
from .weights import original_tensors


FAMILY_OF = {
    "data2vec-audio": "audio",
    "data2vec-text": "text",
    "data2vec2-audio": "audio2",
    "data2vec2-text": "text2",
    "data2vec2-vision": "vision2",
}


def family_of(config: PreTrainedConfig, objective: ObjectiveConfig) -> str:
    if config.model_type == "data2vec-vision":  # fairseq's has no predictor, data2vec_vision's has
        return "vision" if objective.head_layers == 0 else "beit"
    return FAMILY_OF[config.model_type]


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
    family = family_of(config, objective)
    tensors = original_tensors(model, family, unused)
    notes = export_notes(config, objective, family)
    if family == "beit":
        return _beit(tensors, config, objective), notes
    teacher = "encoder._ema." if family == "text" else "_ema."
    nested: dict[str, Any] = {name: t for name, t in tensors.items() if not name.startswith(teacher)}
    nested[teacher[:-1]] = {n.removeprefix(teacher): t for n, t in tensors.items() if n.startswith(teacher)}
    samples = {"batch_size": SAMPLES} if objective.cls_loss_weight else {}
    content: dict[str, Any] = {
        "args": None,
        "cfg": {
            "model": CFGS[family](config, objective),
            "task": TASKS[family](config, objective),
            "criterion": {"_name": "model"},
            "dataset": samples,
            "optimization": {"max_update": max(objective.ema_anneal_steps, num_updates)},
        },
        "model": nested,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "ModelCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": num_updates,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}, "val_loss": None},
    }
    return content, notes


def _beit(tensors: dict[str, Tensor], config: PreTrainedConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    """The layout of the data2vec_vision repository."""
    depth, masking = config.num_hidden_layers, objective.masking.to_dict()
    patches = (config.image_size // config.patch_size) ** 2
    scale = objective.scale_for(config.hidden_size) * config.hidden_size
    args = {
        "model": {768: "beit_base_patch16_224", 1024: "beit_large_patch16_224"}.get(config.hidden_size, "beit"),
        "input_size": config.image_size,
        "layer_scale_init_value": config.layer_scale_init_value,
        "drop_path": config.drop_path_rate,
        "attn_drop_rate": config.attention_probs_dropout_prob,
        "num_mask_patches": int(masking["ratio"] * patches),
        "min_mask_patches_per_block": masking["min_patches"],
        "max_mask_patches_per_block": masking["max_patches"],
        "target_layers": str(list(range(depth - objective.top_k_layers, depth))),
        "layer_results": "end" if objective.target_tap == "end_of_block" else "fc",
        "no_target_layer_norm_last": objective.target_layer_norm is None,
        "post_target_layer_norm": objective.target_norm == "layer",
        "post_target_instance_norm": objective.target_norm == "instance",
        "l2_loss": objective.loss_beta == 0,
        "l1_beta": objective.loss_beta,
        "loss_scale": -1 if abs(scale - 1) < 1e-9 else scale,
        "ema_decay_init": objective.ema_decay,
        "ema_decay": objective.ema_end_decay,
        "ema_start_at": objective.ema_anneal_steps,
    }
    student = {name: tensor for name, tensor in tensors.items() if not name.startswith("_ema.")}
    teacher = {name.removeprefix("_ema."): t for name, t in tensors.items() if name.startswith("_ema.")}
    return {"model": student, "model_ema": teacher, "args": args, "epoch": 0}
