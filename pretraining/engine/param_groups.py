"""Parameters that learn at a share of the learning rate: groups of their own in the optimizer."""

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer


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
