"""A batch norm in front of a classifier, in training only: at the end it becomes part of the classifier's weights.

A speech encoder's frames, averaged over a clip, are nearly the same vector for all clips: what they have in common
can be twenty times what tells them apart. A linear layer on that learns slowly, and is thrown about by a learning rate
that the encoder needs. A batch norm takes away what is common. With its running statistics it is a linear map, so

    weight @ (x - mean) / std + bias  =  (weight / std) @ x + (bias - (weight / std) @ mean)

is again one linear layer, and the folder that a run leaves is the usual model (`task.head_norm`).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


MOMENTUM = 0.1  # of the running statistics, as usual


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
