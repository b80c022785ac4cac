"""Mixup and cutmix of a batch, and the soft targets that they make, so that one loss serves all."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import one_hot

from ..pretraining.data.collators import generator


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Shares of the classes `(batch, classes)` fp32: 1 for the label, less `smoothing`, which goes to all alike.

    `labels` are class numbers `(batch,)`, or shares already.
    """
    shares = one_hot(labels, classes) if labels.dim() == 1 else labels
    return shares.float() * (1 - smoothing) + smoothing / classes


def mixup(inputs: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Each row with `1 - share` of the row opposite, counted from the end (Zhang et al. 2018, arXiv 1710.09412).

    `inputs` `(batch, ...)` and `targets` `(batch, classes)` are mixed alike.
    """
    return share * inputs + (1 - share) * inputs.flip(0), share * targets + (1 - share) * targets.flip(0)


def cutmix(images: Tensor, targets: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each image with a box, of about `1 - share` of its area, from the one opposite (Yun et al., arXiv 1905.04899).

    The box's centre is uniform and its part outside is cut off; targets are mixed by the area that is left of it.
    `images` `(batch, channels, height, width)`, `targets` `(batch, classes)`.
    """
    height, width = images.shape[-2:]
    side = (1 - share) ** 0.5
    down, across = int(rng.integers(height)), int(rng.integers(width))
    high, wide = int(height * side), int(width * side)
    top, bottom = max(down - high // 2, 0), min(down + high // 2, height)
    left, right = max(across - wide // 2, 0), min(across + wide // 2, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, kept * targets + (1 - kept) * targets.flip(0)


class MixingCollator:
    """Batches of which some are mixed with themselves, in reverse: inputs, and `labels` `(batch, classes)` fp32.

    With both alphas above 0 a batch has either mixup or cutmix, at even odds (as MAE's and BEiT's recipes). What is
    drawn follows from the run's seed and the epoch and index of the batch's first example.

    Args:
        collate: examples -> batch; mixed is what `name` calls.
        smoothing: share of a target that is spread over all classes.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
        name: str,
        classes: int,
        seed: int,
        *,
        mixup_alpha: float,
        cutmix_alpha: float = 0.0,
        probability: float = 1.0,
        smoothing: float = 0.0,
    ):
        self.collate, self.name, self.classes, self.seed, self.smoothing = collate, name, classes, seed, smoothing
        self.mixup_alpha, self.cutmix_alpha, self.probability = mixup_alpha, cutmix_alpha, probability

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = self.collate(examples)
        inputs, targets = batch[self.name], soft_targets(batch["labels"], self.classes, self.smoothing)
        rng = generator(self.seed, examples[0]["epoch"], examples[0]["index"], "mixup")
        mixed, cut = rng.random() < self.probability, rng.random() < (0.5 if self.mixup_alpha else 1.0)
        if mixed and self.cutmix_alpha and cut:
            inputs, targets = cutmix(inputs, targets, rng.beta(self.cutmix_alpha, self.cutmix_alpha), rng)
        elif mixed and self.mixup_alpha:
            inputs, targets = mixup(inputs, targets, rng.beta(self.mixup_alpha, self.mixup_alpha))
            if "attention_mask" in batch:  # real is what is heard of either
                batch["attention_mask"] = batch["attention_mask"] | batch["attention_mask"].flip(0)
        return batch | {self.name: inputs, "labels": targets}
