"""Parameter groups: what weight decay spares, and what learns at a share of the learning rate."""

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer


# Weight decay pulls towards zero what a layer multiplies with; these are read, added or scaled with instead.
NO_DECAY = (
    "mask_token",
    "masked_spec_embed",
    "cls_token",
    "extra_tokens",
    "position_embeddings",
    "relative_position_bias_table",
)


def decayed_names(model: nn.Module) -> list[str]:
    """The trained parameters that weight decay pulls towards zero: those that a layer multiplies with."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and not any(spared in name for spared in NO_DECAY)
    ]


def split_param_groups(optimizer: Optimizer, model: nn.Module, factor: Callable[[str], float]) -> None:
    """Move the parameters whose `factor(name)` is not 1 into groups of their own.

    Their learning rate is the group's times the factor, also under a schedule; their weight decay, which the
    optimizer multiplies with that rate, is divided by it, so that they shrink as fast as the others.
    """
    shares = {id(parameter): factor(name) for name, parameter in model.named_parameters()}
    if set(shares.values()) <= {1.0}:
        return
    for group in list(optimizer.param_groups):
        moved: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            moved.setdefault(shares[id(parameter)], []).append(parameter)
        group["params"] = moved.pop(1.0, [])
        rate, decay = group["lr"], group["weight_decay"]
        for share, parameters in moved.items():
            optimizer.add_param_group(
                {**group, "params": parameters, "lr": rate * share, "weight_decay": decay / share}
            )
