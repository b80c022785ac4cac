"""Transcribed speech: a row with audio, or video, and text -> what the encoder reads and {"labels": (letters,) long}.

Clips are never cropped, since their transcripts would no longer be true; too long ones are left out of training.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, Wav2Vec2CTCTokenizer

from ...pretraining.data.collators import Collator
from ...pretraining.data.modality import BadExample, describe
from ...pretraining.data.sources import LABEL
from ...pretraining.modalities.audio import AudioData, AudioDataArguments
from ...pretraining.modalities.av_speech import RATE, AvSpeechData, AvSpeechDataArguments
from ...pretraining.modalities.build import modality_of
from ...pretraining.modalities.sound_files import SAMPLING_RATE
from ..data_arguments import FineTuneDataArguments, LabelledSource
from ..examples import Examples
from ..normalisation import normalise
from ..streams import StreamsReader, StreamsTaskArguments
from .transcripts import DELIMITER, frames_needed


logger = logging.getLogger(__name__)

WHOLE_CLIP = 1e6  # seconds: nothing is cropped
IGNORED = -100  # padding of labels, as everywhere in `transformers`


@dataclass(kw_only=True)
class TranscribedSource(LabelledSource):
    """One place that transcribed speech comes from."""

    label_column: str = field(default="text", metadata={"help": "column with the transcripts"})


@dataclass(kw_only=True)
class CtcDataArguments(FineTuneDataArguments):
    """The `data` fields of a recipe for speech recognition."""

    source_class: ClassVar[type[LabelledSource]] = TranscribedSource

    max_seconds: float | None = field(
        default=None, metadata={"help": "skip longer clips in training; evaluation uses all"}
    )
    min_seconds: float = field(default=0.0, metadata={"help": "skip shorter clips in training"})
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "limit of audio in a device's training batch, padding included; replaces "
            "per_device_train_batch_size"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.labels_per_class is None, "labels_per_class", "leave it out, transcripts are no classes")
        longest = self.max_seconds
        self.require(self.min_seconds >= 0, "min_seconds", "use 0 or more")
        self.require(
            longest is None or longest > self.min_seconds, "max_seconds", "use more than min_seconds, or null"
        )
        cost = self.batch_seconds
        self.require(cost is None or cost >= (longest or 0), "batch_seconds", "use at least max_seconds")

    @property
    def batch_cost(self) -> int | None:
        """Samples in a batch."""
        return None if self.batch_seconds is None else int(self.batch_seconds * SAMPLING_RATE)


class Speech:
    """Reads clips and transcripts.

    Args:
        args: the recipe's.
        streams: the recipe's.
        config: the encoder's, which says what a frame is.
        letter_case, removed: see [`transcripts.normalise`].
        processor: the feature extractor of the checkpoint, or `None` for a new one.
    """

    def __init__(
        self,
        args: CtcDataArguments,
        streams: StreamsTaskArguments,
        config: PreTrainedConfig,
        letter_case: str,
        removed: str,
        processor: Any = None,
    ):
        self.args, self.letter_case, self.removed = args, letter_case, removed
        self.modality = self._modality(config, processor)
        self.num_frames = self.modality.num_frames
        self.reader = StreamsReader(self.modality, streams)

    def _modality(self, config: PreTrainedConfig, processor: Any) -> AudioData | AvSpeechData:
        args = self.args
        how: dict[str, Any] = {"sources": [args.train], "max_seconds": WHOLE_CLIP, "num_proc": args.num_proc}
        if not issubclass(modality_of(config), AvSpeechData):
            reading = AudioDataArguments(**how, min_seconds=args.min_seconds, skip_above_seconds=args.max_seconds)
            return AudioData(reading, config, processor)
        for name in ("max_seconds", "batch_seconds"):
            given = getattr(args, name) is None
            args.require(given, name, "leave it out: how long a film is, is not known before it is read")
        return AvSpeechData(AvSpeechDataArguments(**how, min_seconds=args.min_seconds or 1 / RATE), config, processor)

    def transcript(self, row: Mapping[str, Any]) -> str:
        """The normalised transcript of a row; empty where there is none."""
        return normalise(row[LABEL] or "", self.letter_case, self.removed)

    def transcripts(self, rows: datasets.Dataset) -> list[str]:
        """That of every row."""
        return [self.transcript({LABEL: text}) for text in rows[LABEL][:]]

    def examples(
        self, rows: datasets.Dataset, tokenizer: Wav2Vec2CTCTokenizer, *, name: str, seed: int, training: bool = False
    ) -> Examples:
        """The usable rows of a split.

        Rows that CTC cannot use are found beforehand, from the files' headers and the transcripts: a clip that is
        unreadable or shorter than a frame, an empty transcript and, in training, more letters than the clip's frames
        have room for. Films are only looked at when they are read. Letters that the tokenizer does not know are
        `<unk>`; they are counted in the log.

        Raises:
            BadExample: the first such row, unless `args.skip_bad` leaves them out, logged and counted.
        """
        survey = self.modality.survey(rows, filtered=training)
        lengths = None if survey is None else survey.lengths
        transcripts, column = self.transcripts(rows), self.modality.kind.column
        filtered = np.zeros(len(rows), dtype=bool)
        for reason, out in ({} if survey is None else survey.filtered).items():
            filtered[out] = True
            if len(out):
                logger.warning("data.%s: %d of %d clips are left out: %s", name, len(out), len(rows), reason)
        bad = {row: error for row, error in ({} if survey is None else survey.bad).items() if not filtered[row]}
        frames = None if lengths is None else self.num_frames(torch.from_numpy(lengths)).tolist()
        for row, transcript in enumerate(transcripts):
            if filtered[row] or row in bad:
                continue
            if not transcript:
                bad[row] = _empty(describe(rows[row], column))
            elif training and frames is not None and frames[row] < frames_needed(transcript):
                bad[row] = _crowded(describe(rows[row], column), frames[row], frames_needed(transcript))
        keep = np.setdiff1d(np.flatnonzero(~filtered), np.fromiter(bad, dtype=np.int64, count=len(bad)))
        known = tokenizer.get_vocab()
        _log_unknown(name, [transcripts[row] for row in keep], set(known))

        def read(row: Mapping[str, Any], rng: np.random.Generator | None, **how: Any) -> dict[str, Any]:
            example, transcript = self.reader(row, rng, **how), self.transcript(row)
            needed = frames_needed(transcript)
            if rng is not None and frames is None and self.modality.length(example) < needed:
                raise _crowded(describe(row, column), self.modality.length(example), needed)
            return {**example, "labels": encode(transcript, known)}

        return Examples(
            rows,
            read,
            name=name,
            seed=seed,
            augment=training,
            skip_bad=self.args.skip_bad,
            lengths=lengths,
            keep=keep,
            bad=bad,
            num_proc=self.args.num_proc,
        )


class CtcCollator:
    """Pads clips as `collator` does, with an attention mask where one is padded, and letters with -100."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch, _ = self.collator.inputs(examples)
        labels = [example["labels"] for example in examples]
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return batch


def encode(text: str, vocabulary: Mapping[str, int]) -> Tensor:
    """Numbers of a normalised transcript's letters, `(letters,)` long: what the tokenizer makes of it."""
    unknown = vocabulary["<unk>"]
    return torch.tensor([vocabulary.get(DELIMITER if letter == " " else letter, unknown) for letter in text])


def decode_labels(labels: np.ndarray, tokenizer: Wav2Vec2CTCTokenizer) -> list[str]:
    """Transcripts of rows `(examples, letters)` of numbers; an unknown letter is U+FFFD, one that nothing matches."""
    letters = {number: token for token, number in tokenizer.get_vocab().items()}
    letters |= {letters_id: " " for letters_id, token in letters.items() if token == DELIMITER}
    letters[tokenizer.unk_token_id] = "\ufffd"
    return ["".join(letters[number] for number in row[row != IGNORED].tolist()) for row in np.asarray(labels)]


def _log_unknown(name: str, transcripts: Sequence[str], known: set[str]) -> None:
    unknown = Counter(letter for text in transcripts for letter in text if letter != " " and letter not in known)
    if unknown:
        count = sum(any(letter in unknown for letter in text) for text in transcripts)
        listed = ", ".join(f"{letter!r} ({times})" for letter, times in unknown.most_common(10))
        logger.warning(
            "data.%s: %d of %d transcripts hold letters that the vocabulary does not, and cannot be recognised in "
            "full: %s. Name them in task.letters, or drop them with task.removed_characters.",
            name,
            count,
            len(transcripts),
            listed,
        )


def _empty(name: str) -> BadExample:
    return BadExample(f"{name} has no transcript: write one, or remove the row.", problem="empty transcript")


def _crowded(name: str, frames: int, needed: int) -> BadExample:
    return BadExample(
        f"{name} has {frames} frames, its transcript needs {needed}: correct the transcript, or remove the row.",
        problem="too short for its transcript",
    )
