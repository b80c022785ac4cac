"""Several streams of one sample on one clock: embedded one by one, fused to one sequence, which the encoder reads.

A token is fused of the streams that are there: of those that a batch holds, a sample has, and a mask leaves. Student
and teacher may read different ones of the same sample.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from .configuration_streams import DrawnStreams, StreamsObjectiveConfig
from .gather import count_masks
from .loss import LossTerm, regression_loss
from .modeling_data2vec2 import Data2Vec2Model, EncoderOptions
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .modeling_student_teacher import Data2Vec2ForPreTraining
from .pretraining_step import PreTrainingOptions, Step
from .tokens import Tokens


Streams = tuple[Tensor | None, ...]  # a stream's values each, `None` for one that is not there


class MeanFusion(nn.Module):
    """The mean of the streams that are there (SV-data2vec)."""

    def __init__(self, config: PreTrainedConfig, streams: int):
        super().__init__()

    def forward(self, values: list[Tensor], present: Tensor) -> Tensor:
        """`values` `(batch, time, dim)` each, zeros where bool `present` `(batch, time or 1, streams)` is False."""
        count = present.sum(-1, keepdim=True).clamp(min=1)
        return torch.stack(values).sum(0) / count


class ConcatFusion(nn.Module):
    """Streams beside each other, zeros for one that is not there, then norm and linear layer (AV-HuBERT)."""

    def __init__(self, config: PreTrainedConfig, streams: int):
        super().__init__()
        self.norm = nn.LayerNorm(streams * config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(streams * config.hidden_size, config.hidden_size)

    def forward(self, values: list[Tensor], present: Tensor) -> Tensor:
        return self.projection(self.norm(torch.cat(values, dim=-1)))


class StreamEmbeddings(nn.Module):
    """One embedding a stream, named as the configuration's `streams`, and their fusion."""

    embedding_classes: ClassVar[tuple[type[nn.Module], ...]]
    fusion_class: ClassVar[type[nn.Module]]

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.names: tuple[str, ...] = config.streams
        for name, embedding in zip(self.names, self.embedding_classes, strict=True):
            self.add_module(name, embedding(config))
        self.fusion = self.fusion_class(config, len(self.names))

    def forward(self, *inputs: Any) -> Tokens:
        """The streams' inputs, `None` for one that is not there, and what [`fuse`] reads -> `(batch, time, dim)`.

        What follows is for the teacher. Padding must be zeros in every input.
        """
        given, present = inputs[: len(self.names)], inputs[len(self.names)]
        pairs = zip(self.names, given, strict=True)
        streams = tuple(None if values is None else getattr(self, name)(values) for name, values in pairs)
        return Tokens(self.fuse(streams, present), (clock(given),), streams=streams)

    def fuse(self, streams: Streams, present: Tensor) -> Tensor:
        """Embedded streams -> one sequence of those that are `present`, bool `(batch, time or 1, streams)`."""
        like = next(values for values in streams if values is not None)
        filled = [
            torch.zeros_like(like) if values is None else values.masked_fill(~present[..., number : number + 1], 0)
            for number, values in enumerate(streams)
        ]
        return self.fusion(filled, present)


def clock(inputs: Sequence[Tensor | None]) -> int:
    """Frames of all streams, `(batch, frames, ...)` each.

    Raises:
        ValueError: no stream is there, or they differ in rows or frames.
    """
    shapes = [tuple(values.shape[:2]) for values in inputs if values is not None]  # a list: of an export, symbols
    if not shapes or any(shape != shapes[0] for shape in shapes[1:]):
        found = "none is given" if not shapes else f"they are {' and '.join(map(str, sorted(shapes)))}"
        raise ValueError(f"All streams must have the same rows and frames, (batch, frames, ...), but {found}.")
    return shapes[0][1]


class StreamsModel(Data2Vec2Model):
    """An encoder of one or more streams; a method names its inputs in their order."""

    embeddings: StreamEmbeddings

    def _read(
        self, inputs: Streams, attention_mask: Tensor | None, stream_mask: Tensor | None, options: EncoderOptions
    ) -> BaseModelOutput:
        """Args: `stream_mask` bool or 0 and 1, `(batch, streams)`, which streams a sample has; `None`: all given."""
        clock(inputs)
        like = next(values for values in inputs if values is not None)
        rows, names = like.shape[0], self.config.streams  # in an export `len` would fix it
        there = torch.tensor([values is not None for values in inputs], device=like.device).expand(rows, -1)
        if stream_mask is not None:
            if tuple(stream_mask.shape) != (rows, len(names)):
                raise ValueError(
                    f"stream_mask has shape {tuple(stream_mask.shape)}: pass ({rows}, {len(names)}), whether a sample "
                    f"has {', '.join(names)}."
                )
            there = there & stream_mask.bool()
        return self._encode(self.embed((*inputs, there.unsqueeze(1)), attention_mask), **options)


class StreamsOptions(PreTrainingOptions, total=False):
    """What models of several streams take by name in pretraining, besides.

    Attributes:
        student_streams, teacher_streams: bool `(batch, frames or 1, streams)`, which streams each reads; drawn if not
            given, with `scored`, as at the start of the schedule.
        score_weights: fp32 `(batch, frames)`, what a position that is `scored` counts; 1 if not given.
        stream_seeds: `(batch,)` int64, with which they are drawn.
    """

    student_streams: Tensor | None
    teacher_streams: Tensor | None
    score_weights: Tensor | None
    stream_seeds: Tensor | None


class StreamsForPreTraining(Data2Vec2ForPreTraining):
    """Student and teacher on streams that `objective` draws: see [`StreamsObjectiveConfig`]."""

    objective: StreamsObjectiveConfig
    chooses_masks = False  # what is scored is drawn with the streams

    @classmethod
    def check_objective(cls, config: PreTrainedConfig, objective: Any) -> None:
        super().check_objective(config, objective)
        objective.check_streams(config.streams)

    @torch.no_grad()
    def teacher_view(self, inputs: tuple[Any, ...], tokens: Tokens) -> Tokens:
        """What the teacher reads: its own streams, whole."""
        own = self.teacher.embeddings
        streams = tokens.streams if own is None else own(*inputs).streams
        values = (self.base_model.embeddings if own is None else own).fuse(streams, inputs[-2])
        return tokens._replace(values=values.detach().to(next(self.teacher.parameters()).dtype))

    def loss_terms(self, regression: LossTerm, step: Step) -> list[LossTerm]:
        """The regression, of visible tokens times their weight, where one differs from that of hidden tokens."""
        weights, objective = step.inputs[-1], self.objective
        if weights is not None and any(weight != 1 for weight in objective.score_visible.values()):
            rows = weights.flatten().index_select(0, step.scored)  # (scored,)

            def summed(predictions: Tensor, targets: Tensor) -> Tensor:
                scale = objective.scale_for(targets.shape[1])
                return regression_loss(predictions, targets, objective.loss_beta, scale, rows)

            regression = regression._replace(summed=summed)
        return super().loss_terms(regression, step)

    def at_step(self, batch: dict[str, Any], step: int | None) -> dict[str, Any]:
        if "stream_seeds" not in batch:
            return batch
        mask = batch.get("attention_mask")
        real = None if mask is None else mask.bool()
        rest = {name: values for name, values in batch.items() if name != "stream_seeds"}
        drawn = self._draw(batch["masked"], real, batch["stream_seeds"], step)
        return rest | drawn._asdict() | {"mask_counts": tuple(count_masks(batch["masked"], real, drawn.scored))}

    def _draw(self, masked: Tensor, real: Tensor | None, seeds: Tensor, step: int | None) -> DrawnStreams:
        objective = self.objective
        step = objective.streams_anneal_steps if step is None else step
        return objective.draw_streams(self.config.streams, masked, real, seeds, step)

    def _pretrain_streams(
        self,
        inputs: Streams,
        attention_mask: Tensor | None,
        masked: Tensor | None,
        student_streams: Tensor | None = None,
        teacher_streams: Tensor | None = None,
        score_weights: Tensor | None = None,
        stream_seeds: Tensor | None = None,
        scored: Tensor | None = None,
        **options: Any,
    ) -> Data2VecForPreTrainingOutput:
        time = clock(inputs)
        like = next(values for values in inputs if values is not None)
        real = None if attention_mask is None else attention_mask.bool()
        if masked is None:
            masked = self.sample_masked((time,), len(like), maskable=real).to(like.device)
        if student_streams is None or teacher_streams is None:
            if stream_seeds is None:
                stream_seeds = torch.randint(2**62, (len(like),)).to(like.device)
            drawn = self._draw(masked, real, stream_seeds, 0)
            student_streams = drawn.student_streams if student_streams is None else student_streams
            teacher_streams = drawn.teacher_streams if teacher_streams is None else teacher_streams
            if scored is None:
                scored, score_weights = drawn.scored, drawn.score_weights
        views = (*inputs, student_streams, teacher_streams, score_weights)
        return self._pretrain(views, attention_mask, masked, scored=scored, **options)
