"""What the converter knows of one kind of checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_objective import ObjectiveConfig
from .checkpoint import Checkpoint
from .keys import Rows, translated


Values = dict[str, Any]
Tensors = dict[str, Tensor]
Configured = tuple[PreTrainedConfig, list[str]]  # with notes for the model card on what only training would notice


@dataclass(frozen=True)
class Tuned:
    """The fine-tuned form of a source: a task's head in the place of teacher and predictor."""

    model_class: type[PreTrainedModel]
    config: Callable[[Values, Tensors], Configured]
    prefix: str  # in front of the encoder's names
    rows: Rows  # of the head


@dataclass(frozen=True)
class Source:
    """A kind of checkpoint. To add one, write such an entry in a file of its own and put it into `SOURCES`."""

    words: str
    arxiv: str | None  # the paper
    is_source: Callable[[str, Values, Tensors], bool]  # of the original's name of the model, its section, the tensors
    student: str  # in front of our names of the encoder
    rows: Rows
    encoder: Callable[[Any], PreTrainedModel]
    pretrained: type[PreTrainedModel]
    config: Callable[[Values, Tensors], Configured]  # of the whole original configuration
    # the checkpoint with what its tensors, or a file beside it, say that its configuration does not
    prepared: Callable[[Checkpoint, Path | None], Checkpoint] = lambda read, file: read
    teacherless: bool = False  # published without teacher: then the encoder alone is converted
    tuned: Tuned | None = None
    fresh_teacher: bool = False  # published with the decoder, but without teacher: it starts as the student
    older: tuple[tuple[str, str], ...] = ()  # names that older versions gave to the same tensors: pattern, replacement
    shaped: Callable[[str, Tensor], Tensor] | None = None  # a tensor under our name as we keep it
    unused: str | None = None  # pattern of tensors that the original keeps and does not use
    processor: Callable[[Values, Any, bool], Any] | None = None  # of the original's and our configuration; tuned?
    fixed: Callable[[Any, bool], dict[str, Tensor]] | None = None  # the original's constants; of a tuned model?
    halves: bool = False  # images are scaled to -1 .. 1 unless a switch says otherwise

    # back to the original
    is_ours: Callable[[Any], bool] = lambda config: False
    to_cfg: Callable[[Any, ObjectiveConfig], Values] | None = None  # the sections `model`, `task` ..., or Lightning's
    rows_back: Callable[[ObjectiveConfig], Rows] | None = None  # where not all names of `rows` are the newest
    shaped_back: Callable[[str, Tensor], Tensor] | None = None
    completed: Callable[[Tensors, Any], Tensors] | None = None  # with tensors that the original wants besides
    teacher: str = "_ema."  # in front of the teacher's names
    layout: Literal["fairseq", "data2vec_vision", "lightning"] = "fairseq"  # of the file
    epsilon: float | None = None  # of the norms, where the original cannot change it

    def tuned_rows(self) -> Rows:
        """The student's encoder and the head, fine-tuned."""
        assert self.tuned is not None
        encoder = [(self.tuned.prefix + theirs, own) for theirs, own in self.rows if own.startswith(self.student)]
        return encoder + self.tuned.rows

    def is_tuned(self, tensors: Tensors) -> bool:
        rows = [] if self.tuned is None else self.tuned.rows
        return any(translated(name, rows) for name in tensors)
