"""The numbers of an objective on several streams, and what they draw: who reads which stream, and what is hidden."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from .configuration_objective import ObjectiveConfig
from .masking import RandomMasking
from .masking_functions import mix64, uniforms
from .ranges import require


Schedule = dict[str, list[float | int]]  # streams joined by "+" -> probability at the start and at the end


class DrawnStreams(NamedTuple):
    """What student and teacher read of each sample, and where the loss is taken."""

    student_streams: Tensor  # bool (batch, time, streams)
    teacher_streams: Tensor  # bool (batch, 1, streams)
    scored: Tensor  # bool (batch, time)
    score_weights: Tensor  # fp32 (batch, time), what a scored position counts


@strict
@dataclass(kw_only=True)
class StreamsObjectiveConfig(ObjectiveConfig):
    """What [`ObjectiveConfig`] says, and which streams student and teacher read.

    Args:
        student_streams, teacher_streams (`dict`): sets of streams, names joined by "+", with the probability of each
            at the start of training and at the end of `streams_anneal_steps`, linear in between:
            `{"audio+video": [1.0, 0.25], "video": [0.0, 0.75]}`. Each sample draws one. Empty: all streams, always.
        streams_anneal_steps (`int`): updates over which the probabilities move.
        nested_masking (`dict`): what else is hidden of a stream: the share of the tokens that the mask of all leaves
            visible; what is hidden in all streams is hidden in it as well.
        score_visible (`dict`): sets of the student's streams with which the loss is taken at visible tokens, too, and
            what such a token counts beside a hidden one, `{"video": 1.0}`. The loss stays a mean over all of them.

    The loss is taken where all is hidden, where a stream that the student reads is hidden, and where `score_visible`
    says.
    """

    student_streams: Schedule = field(default_factory=dict)
    teacher_streams: Schedule = field(default_factory=dict)
    streams_anneal_steps: int = 0
    nested_masking: dict[str, float] = field(default_factory=dict)
    score_visible: dict[str, float] = field(default_factory=dict)

    def validate_streams(self) -> None:
        def whole(schedule: Schedule) -> bool:
            pairs = list(schedule.values())
            fits = all(len(pair) == 2 and min(pair) >= 0 for pair in pairs)
            return not pairs or (fits and all(abs(math.fsum(end) - 1) < 1e-6 for end in zip(*pairs, strict=True)))

        words = "sets of streams with two probabilities each, of the start and of the end, which add up to 1"
        checks = {
            "student_streams": (whole(self.student_streams), words),
            "teacher_streams": (whole(self.teacher_streams), words),
            "streams_anneal_steps": (self.streams_anneal_steps >= 0, "0 or more updates"),
            "nested_masking": (
                all(0 < share < 1 for share in self.nested_masking.values()),
                "streams with a share above 0 and below 1",
            ),
            "score_visible": (
                all(weight > 0 for weight in self.score_visible.values()),
                "sets of streams with a weight above 0",
            ),
            "views": (self.views is None, "null: several streams are masked once per sample"),
        }
        require("objective.", self, checks)

    def check_streams(self, names: Sequence[str]) -> None:
        """Raise a ValueError that names a field with another stream than these."""
        sets = {
            "student_streams": list(self.student_streams),
            "teacher_streams": list(self.teacher_streams),
            "score_visible": list(self.score_visible),
            "nested_masking": list(self.nested_masking),
        }
        for name, found in sets.items():
            for streams in found:
                if unknown := [stream for stream in streams.split("+") if stream not in names]:
                    raise ValueError(
                        f"objective.{name} names the stream {unknown[0]!r}: must be {' or '.join(names)}, or several "
                        "joined by '+'."
                    )

    def draw_streams(
        self, names: Sequence[str], masked: Tensor, real: Tensor | None, seeds: Tensor, step: int
    ) -> DrawnStreams:
        """What a sample's seed, and the update, say.

        Args:
            names: of the streams, in their order.
            masked: bool `(batch, time)`, what is hidden in all streams.
            real: bool `(batch, time)`, False on padding; `None` where nothing is padded.
            seeds: `(batch,)` int64, from [`masking.mask_seeds`].
            step: updates that were made before.
        """
        student = self._draw_sets(self.student_streams, names, seeds, step, 4)  # (batch, streams)
        teacher = self._draw_sets(self.teacher_streams, names, seeds, step, 5)
        visible = ~masked if real is None else ~masked & real  # (batch, time)
        hidden = torch.stack([self._hide_more(name, number, visible, seeds) for number, name in enumerate(names)], -1)
        read = student.unsqueeze(1)  # (batch, 1, streams)
        weights = (masked | visible & (read & hidden).any(-1)).float()  # (batch, time)
        for streams, weight in self.score_visible.items():
            drawn = (student == _members(streams, names).to(student.device)).all(-1, keepdim=True)
            weights = torch.where(visible & drawn & (weights == 0), weight, weights)
        return DrawnStreams(read & ~hidden, teacher.unsqueeze(1), weights > 0, weights)

    def _draw_sets(self, schedule: Schedule, names: Sequence[str], seeds: Tensor, step: int, number: int) -> Tensor:
        """Bool (batch, streams): what each sample draws; `number` tells random numbers of a seed apart."""
        if not schedule:
            return torch.ones(len(seeds), len(names), dtype=torch.bool, device=seeds.device)
        moved = min(step / self.streams_anneal_steps, 1.0) if self.streams_anneal_steps else 1.0
        first, last = torch.tensor(list(schedule.values()), dtype=torch.float64).unbind(-1)
        bounds = (first + (last - first) * moved).cumsum(0)[:-1].to(seeds.device)  # (sets - 1,)
        chosen = (uniforms(seeds, 1, number) >= bounds).sum(-1)  # (batch,)
        return torch.stack([_members(streams, names) for streams in schedule]).to(seeds.device)[chosen]

    def _hide_more(self, name: str, number: int, visible: Tensor, seeds: Tensor) -> Tensor:
        """Bool (batch, time): where this stream is hidden, among and beside what is hidden in all."""
        if name not in self.nested_masking:
            return ~visible
        own = (mix64(seeds ^ mix64(torch.full_like(seeds, number + 1))) & (2**63 - 1)).unsqueeze(-1)  # (batch, 1)
        masking = RandomMasking(prob=self.nested_masking[name])
        return ~visible | masking.sample((visible.shape[1],), own, maskable=visible).squeeze(1)


def _members(streams: str, names: Sequence[str]) -> Tensor:
    """Bool (streams,): which of all are in the set."""
    return torch.tensor([name in streams.split("+") for name in names])
