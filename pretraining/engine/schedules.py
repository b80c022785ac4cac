"""Learning-rate schedules that `transformers` does not have, by the name that `lr_scheduler_type` gives them."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def tri_stage_factor(
    step: int, warmup: int, hold: int, decay: int, init_scale: float = 0.01, final_scale: float = 0.01
) -> float:
    """Factor of the peak learning rate at update `step` (0-based), as in the original's speech recipes.

    Linear from `init_scale` over `warmup` updates, 1 for `hold`, exponential to `final_scale` over `decay`.
    """
    if step < warmup:
        return init_scale + (1 - init_scale) * step / warmup
    if step < warmup + hold:
        return 1.0
    done = min((step - warmup - hold) / max(decay, 1), 1.0)
    return math.exp(math.log(final_scale) * done)


def get_tri_stage_schedule(
    optimizer: Optimizer,
    num_training_steps: int,
    *,
    warmup: float,
    hold: float,
    decay: float,
    init_scale: float = 0.01,
    final_scale: float = 0.01,
) -> LambdaLR:
    """The schedule with its stages as shares of the run (0.03, 0.9, 0.07 for LibriSpeech).

    Raises:
        ValueError: the shares do not add up to 1.
    """
    if min(warmup, hold, decay) < 0 or abs(warmup + hold + decay - 1) > 1e-6:
        raise ValueError(
            f"lr_scheduler_kwargs of tri_stage: warmup + hold + decay = {warmup} + {hold} + {decay} must add up to 1."
        )
    first, second, third = (round(share * num_training_steps) for share in (warmup, hold, decay))
    return LambdaLR(optimizer, lambda step: tri_stage_factor(step, first, second, third, init_scale, final_scale))


# name -> (optimizer, updates of the run, **lr_scheduler_kwargs) -> schedule
SCHEDULES: dict[str, Callable[..., LambdaLR]] = {"tri_stage": get_tri_stage_schedule}
