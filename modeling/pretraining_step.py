"""What a step of pretraining is given by name, and what it hands from one part to the next."""

from typing import Any, NamedTuple, TypedDict

from torch import Tensor

from .tokens import Tokens


class PreTrainingOptions(TypedDict, total=False):
    """What all modalities take by name in pretraining.

    Attributes:
        scored: bool like `masked`, where the loss is taken; see [`ObjectiveConfig.scored_positions`] if not given.
        mask_noise: `(batch, views, time, dim)`, what a convolutional decoder reads where `masked`; drawn if not given.
        kept_layers: one bool a block, the prenet's first, False = dropped (LayerDrop); drawn with `config.layerdrop`
            if not given.
        num_items_in_batch: scored positions of the whole effective batch, which divides the loss.
        output_teacher_layers: also return the taps of all blocks.
        output_decoder_states: also return the decoder's input and its output at all positions; with a target of the
            same view, which has no decoder, what the student made of its tokens, zeros elsewhere.
        mask_counts: [`gather.MaskCounts`] of `masked`, so that nothing waits for the device; counted if not given.
        mask_candidates: bool `(batch, views, candidates, time)`, of which the first are `masked`: the step
            chooses, see `masking_adaptive`.
    """

    scored: Tensor | None
    mask_noise: Tensor | None
    kept_layers: list[bool] | None
    num_items_in_batch: Tensor | int | None
    output_teacher_layers: bool
    output_decoder_states: bool
    mask_counts: tuple[int, int, int] | None
    mask_candidates: Tensor | None


class Hidden(NamedTuple):
    """What is hidden from the student: a row per view, those of a sample in a row."""

    removed: Tensor  # bool (rows, time), what is taken from the student
    visible: Tensor  # bool (rows, time), what it sees; what is neither is padding
    real: Tensor | None  # bool (rows, time), False on padding; None where nothing is padded, or padding counts


class View(NamedTuple):
    """What the student reads of a batch, or a teacher in its place."""

    tokens: Tokens  # the embedding of everything
    positions: Tensor | None  # (rows, time, dim), or fewer rows, batch or 1, each of which serves as many in a row
    hidden: Hidden
    kept_layers: list[bool] | None = None  # see [`PreTrainingOptions`], as mask_counts
    mask_counts: tuple[int, int, int] | None = None
    attention_mask: Tensor | None = None  # of the inputs


class Student(NamedTuple):
    """What the student made of its view."""

    last_hidden_state: Tensor  # (rows, extra + seen, dim)
    real: Tensor | None  # bool (rows, seen), False on filler and padding; None where there is neither
    in_place: Tensor  # (rows, time, dim), what it saw in its places, and what the decoder reads elsewhere


class Step(NamedTuple):
    """What a term of the loss may compare."""

    inputs: tuple[Any, ...]  # what the embeddings read
    tokens: Tokens  # the student's embedding of it, of everything
    hidden: Hidden
    student: Student
    decoded: Tensor  # (rows, time, width), what the decoder's projection reads
    all_targets: Tensor  # (batch, time, dim) fp32, what the teacher says
    scored: Tensor  # (positions,) long, where the loss is taken, in the rows of `decoded`, flattened
