"""Parameter groups: layer-wise learning-rate decay, a learning rate for the head, and what weight decay spares.

The rule is BEiT's and MAE's: with L blocks the embeddings are layer 0, block i (from 1) is layer i, and what comes
after the blocks, the head included, is layer L + 1; layer l learns at the rate's `layer_decay ** (L + 1 - l)`.
"""

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..pretraining.engine.param_groups import decayed_names


# One table that all blocks share: BEiT numbers it with what comes after them.
AFTER_BLOCKS = ("relative_position_bias",)


def parameter_groups(
    model: PreTrainedModel,
    *,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    decay_embeddings: bool = True,
    head_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups of all trainable parameters, each with its `lr`, `weight_decay` and the parameters' `names`.

    `decay_embeddings=False` leaves what comes before the blocks at the full rate, as the released code of 2.0 does;
    `head_learning_rate` is that of every parameter outside the encoder (`learning_rate` by default). Biases, norms and
    whatever else is a vector or in `NO_DECAY` are not decayed.
    """
    layers = layer_numbers(model)
    last = max(layers.values())
    encoder = model.base_model_prefix + "."
    decayed = decayed_names(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        peak = learning_rate if name.startswith(encoder) or head_learning_rate is None else head_learning_rate
        layer = layers[name] if layers[name] or decay_embeddings else last
        rate = peak * layer_decay ** (last - layer)
        key = (rate, weight_decay if name in decayed else 0.0)
        group = groups.setdefault(key, {"params": [], "lr": key[0], "weight_decay": key[1], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def layer_numbers(model: PreTrainedModel) -> dict[str, int]:
    """The layer of every parameter, 0 to L + 1, by where its module stands in the encoder."""
    prefix = model.base_model_prefix
    encoder: Any = model.base_model
    stacks = [name for name, module in encoder.encoder.named_children() if isinstance(module, nn.ModuleList)]
    blocks = [
        f"{prefix}.encoder.{stack}.{i}." for stack in stacks for i in range(len(getattr(encoder.encoder, stack)))
    ]
    number = {block: i for i, block in enumerate(blocks, start=1)}
    last = len(blocks) + 1

    def layer(name: str) -> int:
        if not name.startswith(prefix + ".") or any(word in name for word in AFTER_BLOCKS):
            return last
        inside = next((i for block, i in number.items() if name.startswith(block)), None)
        if inside is not None:
            return inside
        child = name.split(".")[1]
        children = [child for child, _ in encoder.named_children()]
        behind = child in children and children.index(child) > children.index("encoder")
        return last if behind else 0

    return {name: layer(name) for name, _ in model.named_parameters()}
