"""Variants of the models that are none of the package's.

Masked reconstruction: the baseline with the same encoder, masks, decoder, data and optimizer, and no teacher.

    run = dataclasses.replace(run, model_class=reconstruction_model_class(run.model_class))

What the student predicts at a hidden position is the input itself:

    images   the pixels of the patch                          mean squared error    2.0: MAE; 1: SimMIM
    speech   40 log-mel energies, standardised over the clip  mean squared error    2.0: Audio-MAE; 1: Mockingjay
    text     the id                                           cross entropy         1: BERT's; 2.0: no mask token

Around that nothing differs: in data2vec 2.0 the student sees the visible tokens alone and the decoder fills in, in
data2vec 1 a mask embedding stands in the place of a hidden token. Only the last layer of the head has another width.
With the same seed the encoder starts from the same weights. `objective.loss_beta`, `loss_scale`, `cls_loss_weight` and
all that is the teacher's are not read.
"""

from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data2vec.modeling.decoder import regression_head
from data2vec.modeling.embed_audio import ConvFrames
from data2vec.modeling.embed_image import as_pair
from data2vec.modeling.loss import LossTerm, regression_loss
from data2vec.modeling.targets import normalize
from data2vec.modeling.tokens import Tokens
from data2vec.pretraining.evaluation.raw_features import MELS, WINDOW, log_mel


@dataclass
class InputTargets:
    """In place of a `TopKAverage`: targets `(batch, time, target dim)` fp32 that no layer was averaged for."""

    values: Tensor
    layers: None = None

    def result(self) -> Tensor:
        return self.values


class Reconstruction:
    """What the three modalities share; it stands in front of a `...ForPreTraining` class, see the function below."""

    _auto_class = None  # no file of a model on the Hub

    def __init__(self, config: Any):
        super().__init__(config)
        self.teacher = nn.Module()  # a teacher has what it does not share with the student: here nothing
        decoder = self.objective.decoder
        head = regression_head(
            config.hidden_size if decoder is None else self.decoder.width,
            max(self.objective.head_layers, 1),
            self.target_dim(),
            getattr(self, "head_linear", nn.Linear),
        )
        head.apply(self._init_weights)
        if decoder is None:
            self.head = head
        else:
            self.decoder.projection = head

    def target_dim(self) -> int:
        raise NotImplementedError

    def read_input(self, inputs: Tensor, grid: tuple[int, ...], real: Tensor | None) -> Tensor:
        """The batch, bool `real` `(batch, time)` -> what is to be predicted, `(batch, time, target dim)` fp32."""
        raise NotImplementedError

    @torch.no_grad()
    def make_targets(self, inputs: tuple[Any, ...], tokens: Tokens, keep_layers: bool) -> InputTargets:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return InputTargets(self.read_input(inputs[0], tokens.grid, tokens.real))

    def summed_loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return regression_loss(predictions, targets, beta=0, scale=1 / targets.shape[1])

    def loss_terms(self, regression: LossTerm, *others: Any) -> list[LossTerm]:
        return [regression]


class Pixels(Reconstruction):
    """The pixels of every patch, in data2vec 2.0 standardised within it.

    So do MAE (arXiv 2111.06377, table 1d) and SimMIM, which predicts what the encoder reads (arXiv 2111.09886, section
    3.4). With a mask embedding, 500 steps on standardised patches taught nothing, on pixels as they are a little.
    """

    def target_dim(self) -> int:
        return self.config.num_channels * prod(as_pair(self.config.patch_size))

    def read_input(self, inputs: Tensor, grid: tuple[int, ...], real: Tensor | None) -> Tensor:
        size = as_pair(self.config.patch_size)
        patches = F.unfold(inputs.float(), size, stride=size).transpose(1, 2)  # (batch, patches, channels * pixels)
        return patches if self.objective.views is None else normalize(patches, "layer")


class LogMel(Reconstruction):
    """Log-mel energies of what every frame hears, each mel standardised over the real frames of its clip.

    The window is around the middle of the frame's receptive field and as long as that, at least 25 ms.
    """

    def target_dim(self) -> int:
        return MELS

    def read_input(self, inputs: Tensor, grid: tuple[int, ...], real: Tensor | None) -> Tensor:
        strides = tuple(self.config.conv_stride)
        field, hop = ConvFrames(tuple(self.config.conv_kernel), strides).samples_for(1), prod(strides)  # samples
        window = max(WINDOW, field + field % 2)
        before = (window - field) // 2
        after = (grid[0] - 1) * hop + window - before - inputs.shape[1]  # below 0 where samples are left over
        mels = log_mel(F.pad(inputs, (before, after)), window, hop, center=False).transpose(1, 2)
        return normalize(mels, "instance", real)  # (batch, time, mels)


class Ids(Reconstruction):
    """The ids themselves, as the one channel of the targets; exact in fp32 below 2**24."""

    def target_dim(self) -> int:
        return self.config.vocab_size

    def read_input(self, inputs: Tensor, grid: tuple[int, ...], real: Tensor | None) -> Tensor:
        return inputs.unsqueeze(-1).float()

    def summed_loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(predictions.float(), targets.squeeze(1).long(), reduction="sum")


@cache
def restless_class(model_class: type, factor: float) -> type:
    """A `...ForPreTraining` class -> the same, whose local encoder, or embedding, learns at so many times the rate."""

    def rate_factor(self: Any, name: str) -> float:
        return factor if any(part in name for part in LOCAL) else 1.0

    how = {"__module__": __name__, "rate_factor": rate_factor, "_auto_class": None}
    return type(f"Restless{model_class.__name__}", (model_class,), how)


@cache
def regularised_class(model_class: type, variance: float, covariance: float) -> type:
    """A class of data2vec 1 -> the same with VICReg's terms (arXiv 2105.04906, section 4.1) on what its head reads."""

    class Regularised(model_class):
        _auto_class = None

        def __init__(self, config: Any):
            super().__init__(config)
            self.head.register_forward_pre_hook(lambda _, read: setattr(self, "_read", read[0].float()))

        def compare(self, *args: Any, **kwargs: Any) -> Any:
            output, states = super().compare(*args, **kwargs), self._read - self._read.mean(0)  # (masked, dim)
            products = states.T @ states / (len(states) - 1)  # (dim, dim)
            hinge = (1 - (products.diagonal() + 1e-4).sqrt()).relu().mean()
            apart = (products.square().sum() - products.diagonal().square().sum()) / len(products)
            output.loss = output.loss + variance * hinge + covariance * apart
            return output

    Regularised.__name__ = Regularised.__qualname__ = f"Regularised{model_class.__name__}"
    return Regularised


LOCAL = ("embeddings.", "feature_extractor.", "feature_projection.")  # in the names of its parameters
TARGETS = {"pixel_values": Pixels, "input_values": LogMel, "input_ids": Ids}  # by what the encoder reads


@cache
def reconstruction_model_class(model_class: type) -> type:
    """A `...ForPreTraining` class of any of the six systems -> the same that predicts its hidden input.

    A run folder has the encoder on top, as always. The whole in `pretraining/` has no teacher, whose probes then show
    the student, and is opened by the class that is returned.
    """
    name, bases = f"Reconstruction{model_class.__name__}", (TARGETS[model_class.main_input_name], model_class)
    return type(name, bases, {"__module__": __name__, "__doc__": f"`{model_class.__name__}` without a teacher."})
