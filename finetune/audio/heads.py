"""What stands between frames and labels, beside the usual heads.

**Linear-softmax pooling** (data2vec, arXiv 2202.03555, section 5.2) makes a model that labels every frame one that
labels clips. The probability of a label in a clip is the mean of its probabilities in the frames, each weighted by
itself: `sum p^2 / sum p`. Frames that are sure of a label count, silence hardly does, and one short event is not
averaged away.

**A batch norm in front of a classifier** (`task.head_norm`), in training only. A speech encoder's frames, averaged
over a clip, are nearly the same vector for all clips: what they have in common can be twenty times what tells them
apart. A linear layer on that learns slowly and is unstable at a learning rate that the encoder needs. A batch norm
takes away what is common. With its running statistics it is a linear map, so

    weight @ (x - mean) / std + bias  =  (weight / std) @ x + (bias - (weight / std) @ mean)

is again one linear layer, and the folder that a run leaves is the usual model.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, logsigmoid


MOST = -1e-6  # largest log-probability of a pooled label, so that its logit stays finite
MOMENTUM = 0.1  # of the running statistics, as usual


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


class NormedClassifier(nn.Module):
    """Stands in for `linear` while it is trained: batch norm without scale and shift, then `linear`."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.norm = nn.BatchNorm1d(linear.in_features, affine=False, device=linear.weight.device)
        self.linear = linear

    def forward(self, pooled: Tensor) -> Tensor:  # (batch, dim) -> (batch, labels)
        if len(pooled) > 1 or not self.training:
            # Plain averages at first: what the statistics begin with, a variance of 1, is far from that of pooled
            # frames, and would still be felt after a short run.
            seen = self.norm.num_batches_tracked
            assert seen is not None  # a batch norm counts unless told otherwise
            self.norm.momentum = max(MOMENTUM, 1 / (int(seen) + 1))
            return self.linear(self.norm(pooled))
        # a batch of one, such as the last one of an epoch may be, has no spread: normalised as in evaluation
        mean, variance = self.norm.running_mean, self.norm.running_var
        return self.linear(batch_norm(pooled, mean, variance, eps=self.norm.eps))

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """One linear layer that computes what this one does in evaluation."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None  # a batch norm tracks them unless told otherwise
        one = nn.Linear(self.linear.in_features, self.linear.out_features, device=mean.device)
        weight = self.linear.weight.double() / (variance.double() + self.norm.eps).sqrt()  # (labels, dim)
        one.weight.copy_(weight)
        one.bias.copy_(self.linear.bias.double() - weight @ mean.double())
        return one
