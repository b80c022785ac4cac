"""What a recipe says about data: the fields that every modality shares, and the check of all fields.

`AudioDataArguments`, `ImageDataArguments` and `TextDataArguments` add their own. All are plain dataclasses that take
what a YAML file holds: `sources` and `probe` may be given as dicts.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, get_type_hints

from ..recipe import typed


class CheckedArguments:
    """Base of the argument dataclasses: every value has its field's type, and an error names field, value and fix."""

    where: ClassVar[str]  # how the recipe names this group of fields

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):  # type: ignore[arg-type]
            setattr(self, f.name, typed(f"{self.where}.{f.name}", getattr(self, f.name), hints[f.name]))

    def require(self, holds: bool, name: str, fix: str) -> None:
        if not holds:
            self.refuse(name, fix)

    def refuse(self, name: str, fix: str) -> None:
        raise ValueError(f"{self.where}.{name} = {getattr(self, name)!r} is invalid: {fix}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a recipe's dict; an unknown or missing key is a ValueError that names it."""
        known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, Mapping):
            raise ValueError(f"{cls.where} = {values!r} is invalid: give fields, of {', '.join(known)}.")
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(known)}."
                raise ValueError(f"{cls.where}.{key} = {values[key]!r} is not a field: {hint}")
        try:
            return cls(**values)
        except TypeError as error:  # what is left: a field without a default was not given
            raise ValueError(f"{cls.where}: {error}. Add it.") from error


@dataclass(kw_only=True)
class Source(CheckedArguments):
    """One place that examples come from."""

    where: ClassVar[str] = "data.sources"

    path: str = field(
        metadata={
            "help": "a folder of media files; a file or pattern (txt, jsonl, csv, parquet); a folder written "
            "by save_to_disk; a Hugging Face dataset by name or folder; or one of builtin:digits, "
            "builtin:python-docs, builtin:espeak-digits, builtin:shapes"
        }
    )
    name: str | None = field(default=None, metadata={"help": "configuration of a Hugging Face dataset"})
    split: str | None = field(
        default=None, metadata={"help": "split of the dataset (default: train), or a sub-folder of a folder of files"}
    )
    column: str | None = field(
        default=None, metadata={"help": "column with the media or the text (default: found by its type)"}
    )
    columns: dict[str, str] | None = field(
        default=None,
        metadata={"help": "columns of further inputs, {video: mouth} (default: found by their names)"},
    )
    root: str | None = field(
        default=None,
        metadata={
            "help": "paths in a table are relative to this folder and must stay below it, links included "
            "(default: the table's folder); / allows any"
        },
    )
    keep: dict[str, list[Any]] | None = field(
        default=None,
        metadata={"help": "keep only rows with one of these values, such as {speaker_id: [7, 21]}"},
    )
    drop: dict[str, list[Any]] | None = field(
        default=None,
        metadata={"help": "drop rows with these values, for example to hold out speakers; written like keep"},
    )
    weight: float | None = field(
        default=None,
        metadata={
            "help": "share of the examples drawn from this source, relative to the others (1 if another source "
            "has a weight); without weights, every example comes once per epoch"
        },
    )
    license: str | None = field(
        default=None, metadata={"help": "licence of the data for the model card, by the Hub's name: cc-by-4.0"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(bool(self.path), "path", "name a folder, a file or a dataset")
        self.require(self.root is None or bool(self.root), "root", "name a folder, or leave it out")
        self.require(
            self.weight is None or self.weight > 0, "weight", "use a positive number, or leave the source out"
        )

    def refusal(self, why: object) -> ValueError:
        """The error that says why this source cannot be opened."""
        return ValueError(
            f"data source {self.path!r} (name={self.name!r}, split={self.split!r}) cannot be opened. {why}"
        )


@dataclass(kw_only=True)
class ProbeArguments(CheckedArguments):
    """A labelled dataset on which the frozen encoder is probed; never trained on."""

    where: ClassVar[str] = "data.probe"

    path: str = field(
        metadata={"help": "as in sources; in a folder of files, the class of a file is the name of its folder"}
    )
    name: str | None = field(default=None, metadata={"help": "configuration of a Hugging Face dataset"})
    train_split: str = field(default="train", metadata={"help": "split for fitting the probe"})
    validation_split: str | None = field(
        default=None,
        metadata={"help": "split for its accuracy during training; null: a fifth of train_split, held out"},
    )
    test_split: str = field(default="test", metadata={"help": "split for its accuracy in the report"})
    column: str | None = field(default=None, metadata={"help": "as in sources"})
    columns: dict[str, str] | None = field(default=None, metadata={"help": "as in sources"})
    label_column: str = field(default="label", metadata={"help": "column with the class labels"})
    svm: bool = field(
        default=False,
        metadata={"help": "add a linear support vector machine on the raw features to k-NN (Point2Vec)"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("validation_split", "test_split"):
            differ = getattr(self, name) != self.train_split
            self.require(differ, name, "use another split than train_split, or the probe is tested on what it saw")

    def source(self, split: str) -> Source:
        return Source(path=self.path, name=self.name, split=split, column=self.column, columns=self.columns)


@dataclass(kw_only=True)
class DataArguments(CheckedArguments):
    """The fields of every modality."""

    where: ClassVar[str] = "data"

    sources: list[Source] = field(metadata={"help": "the pretraining data"})
    eval_sources: list[Source] = field(
        default_factory=list, metadata={"help": "held-out data: always the same masks, no augmentation"}
    )
    probe: ProbeArguments | None = field(default=None, metadata={"help": "labelled data for the online probe"})
    streaming: bool = field(
        default=False,
        metadata={"help": "stream the sources: nothing is downloaded in advance, the order is shuffled in a buffer"},
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "size of the shuffle buffer of a stream, in examples"})
    max_bad_share: float = field(
        default=0.01,
        metadata={
            "help": "skip unusable files, counted and named in skipped.jsonl, and stop the run above this share. "
            "0: stop at the first"
        },
    )
    mixup: bool = field(
        default=False, metadata={"help": "blend each example with another one of its batch (MedCoSS's rehearsal)"}
    )
    num_proc: int = field(default=1, metadata={"help": "processes for reading durations or tokenising beforehand"})

    def __post_init__(self) -> None:
        self.sources = _list_of_sources(self.sources, "data.sources")
        self.eval_sources = _list_of_sources(self.eval_sources, "data.eval_sources")
        if isinstance(self.probe, Mapping):
            self.probe = ProbeArguments.from_dict(self.probe)
        super().__post_init__()
        self.require(bool(self.sources), "sources", "name at least one: - path: FOLDER_OR_DATASET")
        self.require(self.shuffle_buffer >= 1, "shuffle_buffer", "use 1 (no shuffling inside a shard) or more")
        self.require(0 <= self.max_bad_share <= 1, "max_bad_share", "use a share of the files, 0 to 1")
        self.require(self.num_proc >= 1, "num_proc", "use 1 or more")
        if self.streaming and len(self.sources) > 1 and any(source.weight is None for source in self.sources):
            raise ValueError(
                "data.sources: a stream does not know its length, so with data.streaming = true each of several "
                "sources needs a weight: add weight: 1.0 to each for equal shares."
            )

    @property
    def batch_cost(self) -> int | None:
        """The most a padded batch may hold, rows * longest, in samples or tokens; None where examples are alike."""
        return None

    @property
    def bucket_width(self) -> float:
        """How much the lengths in a batch may differ, as a share."""
        return 0.05

    def shares(self) -> list[float] | None:
        """Each source's share of the examples, or None: every example once per epoch."""
        if all(source.weight is None for source in self.sources):
            return None
        weights = [1.0 if source.weight is None else source.weight for source in self.sources]
        return [weight / sum(weights) for weight in weights]


def _list_of_sources(values: Any, where: str) -> list[Source]:
    if not isinstance(values, list):
        raise ValueError(f"{where} = {values!r} is invalid: give a list, - path: FOLDER_OR_DATASET.")
    return [value if isinstance(value, Source) else Source.from_dict(value) for value in values]
