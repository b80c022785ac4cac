"""From frames to a clip: linear-softmax pooling (data2vec, arXiv 2202.03555, section 5.2).

A model that labels every frame becomes one that labels clips. The probability of a label in a clip is the mean of its
probabilities in the frames, each weighted by itself: `sum p^2 / sum p`. Frames that are sure of a label count, silence
hardly does, and one short event is not averaged away.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


MOST = -1e-6  # largest log-probability of a pooled label, so that its logit stays finite


def linear_softmax_logits(frame_logits: Tensor, real: Tensor | None = None) -> Tensor:
    """The logits of the pooled probabilities, (batch, labels) fp32, whatever the precision of what comes in.

    Computed on a logarithmic scale: an unsure label's `p` of 1e-8 squared is below what fp32 divides exactly.

    Args:
        frame_logits: (batch, frames, labels).
        real: bool (batch, frames), False on padding, which does not count; None if nothing is padded. (The original
            counts padded frames as frames with the classifier's bias as their logit.)
    """
    log_p = logsigmoid(frame_logits.float())  # (batch, frames, labels)
    if real is not None:
        log_p = log_p.masked_fill(~real.unsqueeze(-1), -torch.inf)
    pooled = torch.logsumexp(2 * log_p, dim=1) - torch.logsumexp(log_p, dim=1)  # (batch, labels), log of sum p^2/sum p
    pooled = pooled.clamp(max=MOST)
    return pooled - torch.log(-torch.expm1(pooled))
