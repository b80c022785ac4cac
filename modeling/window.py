"""Who reads whom in a block: the teacher's attention window (data2vec, section 5.4), and causal attention."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask


TAKES_A_WINDOW = ("eager", "sdpa", "flex_attention")


def window_mask(
    time: int, window: int | None, extra: int, real: Tensor | None, device: torch.device, causal: bool = False
) -> Tensor:
    """Who reads whom: bool `(rows or 1, 1, extra + time, extra + time)`, True = the first reads the second.

    A token reads real tokens at most `window` positions away, itself (so that no row of padding is empty) and the
    extra tokens. These read each other alone: would they read more, all would know of everything from them one block
    later, whatever the window.

    Args:
        time: tokens behind the extra ones.
        window: `None` is any distance.
        real: bool `(rows, time)`, `None` where all is real.
        causal: a token reads none behind it.
    """
    position = torch.arange(time, device=device)
    ahead = position.unsqueeze(1) - position  # (time, time), how far in front of the reader the other is
    near = ahead.abs() <= (time if window is None else window)
    near = (near & (ahead >= 0) if causal else near).unsqueeze(0)  # (1, time, time)
    if real is not None:
        near = near & real.unsqueeze(1) | (ahead == 0)  # (rows, time, time)
    near = F.pad(near, (extra, 0, 0, 0), value=True)  # (rows or 1, time, extra + time)
    extras = torch.arange(extra + time, device=device) < extra  # (extra + time,)
    return torch.cat((extras.expand(len(near), extra, -1), near), dim=1).unsqueeze(1)


def attention_mask_of(
    config: PreTrainedConfig,
    hidden: Tensor,
    real: Tensor | None,
    window: int | None = None,
    extra: int = 0,
    causal: bool = False,
) -> Any:
    """The mask of `hidden` `(rows, extra + time, dim)`, of the type that the attention implementation wants.

    Args:
        real: bool `(rows, extra + time)`, `None` where all is real.
        window, causal: see [`window_mask`].

    Raises:
        ValueError: a window or causal attention with an implementation that takes no mask (flash attention).
    """
    if window is None and not causal:
        return create_bidirectional_mask(config=config, inputs_embeds=hidden, attention_mask=real)
    if config._attn_implementation not in TAKES_A_WINDOW:
        field = "is_causal = true" if causal else f"objective.teacher_window = {window}"
        raise ValueError(
            f"{field}: attn_implementation must be one of {TAKES_A_WINDOW}, not "
            f"{config._attn_implementation!r}, which takes no mask."
        )
    rows, time = hidden.shape[0], hidden.shape[1] - extra
    allowed = window_mask(time, window, extra, None if real is None else real[:, extra:], hidden.device, causal)
    allowed = allowed.expand(rows, -1, -1, -1)
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=hidden,
        attention_mask=None,
        and_mask_function=lambda row, head, reader, read: allowed[row, 0, reader, read],
    )
