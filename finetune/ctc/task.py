"""Speech recognition: letters by connectionist temporal classification (CTC), as wav2vec 2.0 and both data2vecs do it.

    transcripts -> letters                  transcripts.py
    audio and letters -> batches            data.py
    scores -> words -> word errors          decoding.py

The loss of an utterance is the sum over its alignments' -log P, not divided by its letters; a batch's is the mean over
utterances, as in the original's recipes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    Wav2Vec2Processor,
)
from transformers.trainer_utils import EvalPrediction

from ...pretraining.data.modality import describe
from ...pretraining.data.sources import LABEL
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.av_speech import AvSpeechData
from ..examples import Examples
from ..labels import open_splits
from ..metrics import load
from ..normalisation import CASES, PUNCTUATION
from ..streams import StreamsTaskArguments
from ..task import Task, TaskData
from .data import CtcCollator, CtcDataArguments, Speech, decode_labels
from .decoding import GreedyDecoder, LanguageModelDecoder, Tuning, most_frequent, tune, utterance_errors
from .transcripts import letters_of, make_tokenizer


TUNED_ON = 500  # utterances of validation that the language model's weights are tried on
PADDED = -100.0  # what the `Trainer` fills batches of predictions up with; a frame of it alone is padding


@dataclass(kw_only=True)
class CtcArguments(StreamsTaskArguments):
    """The `task` fields of a recipe for speech recognition."""

    letter_case: str = field(default="upper", metadata={"help": "case of the transcripts: upper, lower or keep"})
    removed_characters: str = field(
        default=PUNCTUATION, metadata={"help": "characters of transcripts to replace by spaces"}
    )
    letters: str = field(default="", metadata={"help": "letters to add to those of the training transcripts"})
    language_model: str | None = field(
        default=None,
        metadata={"help": "n-gram model for decoding: an .arpa file, or a binary one from KenLM's build_binary"},
    )
    language_model_words: str | None = field(
        default=None, metadata={"help": "file with the words of a binary model, one per line"}
    )
    beam_width: int = field(default=100, metadata={"help": "beam width of the search"})
    alphas: list[float] = field(
        default_factory=lambda: [0.25, 0.5, 0.75, 1.0, 1.5, 2.0],
        metadata={"help": "weights of the language model to try on validation"},
    )
    betas: list[float] = field(
        default_factory=lambda: [-1.0, 0.0, 1.0, 2.0], metadata={"help": "bonuses per word to try with each alpha"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.letter_case in CASES, "letter_case", f"use one of {', '.join(CASES)}")
        self.require(self.beam_width >= 1, "beam_width", "use 1 or more")
        self.require(bool(self.alphas) and min(self.alphas) >= 0, "alphas", "give at least one, of 0 or more")
        self.require(bool(self.betas), "betas", "give at least one")
        self.require(
            self.language_model is not None or self.language_model_words is None,
            "language_model_words",
            "name the model in language_model, or leave it out",
        )


class SpeechRecognition(Task[CtcArguments, CtcDataArguments]):
    """See [`Task`]. `wer` and `cer` are of greedy decoding, `lm_wer` and `lm_cer` of the search with a model."""

    name = "speech recognition"
    script = "run_ctc.py"
    arguments_class = CtcArguments
    data_class = CtcDataArguments
    modalities = (AudioData, AvSpeechData)
    config_fields = ("ctc_loss_reduction",)
    auto_class = AutoModelForCTC
    main_metric = "wer"
    greater_is_better = False

    def build_data(self) -> TaskData:
        args, run = self.args, self.run
        self._check_masks()
        try:
            extractor = AutoFeatureExtractor.from_pretrained(run.checkpoint, trust_remote_code=False)
        except OSError as error:
            raise ValueError(
                f"model.model_name_or_path = {run.checkpoint!r} comes without a feature extractor: save "
                "Wav2Vec2FeatureExtractor(return_attention_mask=True), or its own, beside the weights."
            ) from error
        speech = Speech(self.data_args, args, run.config, args.letter_case, args.removed_characters, extractor)
        self.speech, self.num_frames = speech, speech.num_frames
        splits = self._open()
        letters = letters_of(speech.transcripts(splits["train"])) | letters_of([args.letters])
        self.tokenizer = make_tokenizer(letters)
        self.greedy = GreedyDecoder(self.tokenizer)
        self.language_model = self._open_language_model()
        self.searching = False  # the language model is for the end: a search takes longer than the network
        self.tuning: Tuning | None = None
        self._texts: tuple[np.ndarray, list[str], list[str] | None] | None = None
        seed = run.training.seed
        parts = {
            name: speech.examples(rows, self.tokenizer, name=name, seed=seed, training=name == "train")
            for name, rows in splits.items()
        }
        train = parts.pop("train")
        self._check_mask_length(train)
        return TaskData(
            train=train,
            evaluation=speech.reader.evaluation(parts),
            collator=CtcCollator(speech.modality.collator(None, seed)),
            processor=Wav2Vec2Processor(speech.modality.processor, self.tokenizer),
            model_kwargs={
                "vocab_size": len(self.tokenizer),
                "pad_token_id": self.tokenizer.pad_token_id,
                "ctc_loss_reduction": "sum",  # `loss` divides by the utterances
            },
            batch_cost=self.data_args.batch_cost,
        )

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Mean over utterances; frames of padding get scores that say so."""
        outputs = model(**inputs)
        if not model.training and "attention_mask" in inputs:
            frames = self.num_frames(inputs["attention_mask"].sum(1))  # (batch,)
            real = torch.arange(outputs.logits.shape[1], device=frames.device) < frames[:, None]  # (batch, frames)
            outputs["logits"] = outputs.logits.masked_fill(~real[..., None], PADDED)
        return outputs["loss"] / len(inputs["labels"]), outputs

    def preprocess_logits(self, logits: Any, labels: Any) -> Tensor:
        """Each frame's best token, or all log-probabilities where a language model is to choose."""
        scores = logits[0] if isinstance(logits, tuple) else logits  # (batch, frames, vocabulary)
        padded = (scores == PADDED).all(-1)  # (batch, frames)
        if self.searching:
            return scores.log_softmax(-1, dtype=torch.float32).masked_fill(padded[..., None], PADDED)
        return scores.argmax(-1).masked_fill(padded, int(PADDED))

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        references = decode_labels(np.asarray(predictions.label_ids), self.tokenizer)
        greedy, searched = self._decode(np.asarray(predictions.predictions))
        metrics: dict[str, float] = {}
        for prefix, texts in (("", greedy), ("lm_", searched)):
            if texts is not None:
                for name in ("wer", "cer"):
                    found = load(name).compute(predictions=texts, references=references)
                    metrics[f"{prefix}{name}"] = found[name]
        return metrics

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        greedy, searched = self._decode(predictions)
        texts = greedy if searched is None else searched
        references = [self.speech.transcript(examples.row(i)) for i in range(len(examples))]
        rows = []
        for i, (reference, text, error) in enumerate(
            zip(references, texts, utterance_errors(references, texts), strict=True)
        ):
            row = {
                "id": int(examples.kept[i]),
                "input": describe(examples.row(i), self.kind.column),
                "label": reference,
                "prediction": text,
                "error": round(error.wer, 6),
                "wer": round(error.wer, 6),
                "cer": round(error.cer, 6),
                "edits": error.edits,
            }
            rows.append(row if searched is None else row | {"greedy": greedy[i]})
        return rows

    def after_training(self, trainer: Any, data: TaskData) -> None:
        """Tune the language model's weights on validation, and put the model into the processor that is saved."""
        if self.language_model is None:
            return
        from transformers import Wav2Vec2ProcessorWithLM

        assert data.validation is not None  # `_open` saw to it
        self.searching = True
        output = trainer.predict(data.validation, metric_key_prefix="tuning")
        scores = [_without_padding(row) for row in output.predictions[:TUNED_ON]]
        references = decode_labels(output.label_ids[:TUNED_ON], self.tokenizer)
        self.tuning = tune(self.language_model, scores, references, self.args.alphas, self.args.betas)
        extractor = data.processor.feature_extractor
        # where `pipeline` looks for it, which transformers 5.23 does not write
        extractor.processor_class = "Wav2Vec2ProcessorWithLM"
        data.processor = Wav2Vec2ProcessorWithLM(extractor, self.tokenizer, self.language_model.search)
        trainer.processing_class = data.processor
        self.main_metric = "lm_wer"

    def write_extra(self, folder: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """The most frequent edits, below the worst utterances."""
        errors = utterance_errors([row["label"] for row in rows], [row["prediction"] for row in rows])
        lines = [
            "",
            f"# {split}: the most frequent edits",
            "",
            "`A>B`: B for A; `-A`: A is missing; `+A`: A too many.",
        ]
        lines += ["", "| edit | times |", "|---|---|"]
        lines += [f"| {edit.replace('|', '')} | {times} |" for edit, times in most_frequent(errors)]
        with (folder / f"{split}_errors.md").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def results_extra(self) -> dict[str, Any]:
        """What results.json says about decoding."""
        if self.language_model is None or self.tuning is None:
            return {}
        return {
            "language_model": {
                "alpha": self.tuning.alpha,
                "beta": self.tuning.beta,
                "beam_width": self.language_model.beam_width,
                "tuned_on": {"split": "validation", "utterances": self.tuning.utterances, "wer": self.tuning.wer},
                "tried": self.tuning.tried,
            }
        }

    def _open(self) -> dict[str, datasets.Dataset]:
        """The rows of each split, train first, with the columns of the clips and label, the transcript."""
        args = self.data_args
        splits = open_splits(args, self.speech.reader.kind)
        for name, rows in splits.items():
            if getattr(rows.features[LABEL], "dtype", None) not in ("string", "large_string"):
                raise ValueError(
                    f"data.{name}.label_column = {getattr(args, name).label_column!r} is invalid: it holds "
                    f"{rows.features[LABEL]}, name a column of transcripts."
                )
        if args.validation_share:
            parts = splits["train"].train_test_split(test_size=args.validation_share, seed=self.run.training.seed)
            splits = {"train": parts["train"], "validation": parts["test"], **splits | {"train": parts["train"]}}
        if self.args.language_model is not None and "validation" not in splits:
            raise ValueError("task.language_model needs data.validation, which its weight is tuned on: name one.")
        return splits

    def _check_masks(self) -> None:
        config = self.run.config
        if getattr(config, "mask_feature_prob", 0) and config.mask_feature_length > config.hidden_size:
            raise ValueError(
                f"model.mask_feature_length = {config.mask_feature_length} is invalid: the encoder has "
                f"hidden_size = {config.hidden_size} channels, use less or mask_feature_prob 0."
            )
        if "ctc_loss_reduction" in self.run.config_overrides:
            raise ValueError(
                "model.ctc_loss_reduction is invalid: the loss is the mean over utterances, leave it out."
            )

    def _check_mask_length(self, train: Examples) -> None:
        """`transformers`' own masking, of data2vec 1, stops at clips that are shorter than a span."""
        config = self.run.config
        if train.lengths is None or not (hasattr(config, "mask_time_min_masks") and config.mask_time_prob):
            return
        shortest = int(self.num_frames(int(train.lengths.min())))
        if config.mask_time_length > shortest:
            raise ValueError(
                f"model.mask_time_length = {config.mask_time_length} is invalid: the shortest training clip has "
                f"{shortest} frames. Use {shortest} or less, raise data.min_seconds, or set model.mask_time_prob to 0."
            )

    def _open_language_model(self) -> LanguageModelDecoder | None:
        args = self.args
        if args.language_model is None:
            return None
        words = None
        if args.language_model_words is not None:
            path = Path(args.language_model_words).expanduser()
            if not path.is_file():
                raise ValueError(f"task.language_model_words = {str(path)!r} is invalid: there is no such file.")
            words = path.read_text(encoding="utf-8").split()
        return LanguageModelDecoder(
            self.tokenizer,
            args.language_model,
            words,
            beam_width=args.beam_width,
            num_proc=self.data_args.num_proc,
        )

    def _decode(self, predictions: np.ndarray) -> tuple[list[str], list[str] | None]:
        """Greedy texts and, of log-probabilities `(examples, frames, vocabulary)`, the search's."""
        if self._texts is not None and self._texts[0] is predictions:  # the search is slow, and asked for twice
            return self._texts[1], self._texts[2]
        if predictions.ndim == 2:
            return self.greedy.decode_ids([row[row != PADDED] for row in predictions]), None
        assert self.language_model is not None
        scores = [_without_padding(row) for row in predictions]
        greedy = self.greedy(scores)
        # while the weights are being tuned nothing is searched with the weights of before
        searched = self.language_model(scores) if self.tuning is not None else None
        self._texts = (predictions, greedy, searched)
        return greedy, searched


def _without_padding(scores: np.ndarray) -> np.ndarray:
    """`(frames, vocabulary)` of one utterance, without the frames that pad it."""
    return scores[~(scores == PADDED).all(-1)]
