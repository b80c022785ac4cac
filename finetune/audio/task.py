"""Audio classification: one label per clip (emotions, words, environmental sounds) or several (AudioSet).

mean            the usual audio-classification model: a linear layer on the mean of the frames
linear_softmax  a frame-classification model whose frames' probabilities are pooled, see heads.py (section 5.2 of
                arXiv 2202.03555). Such a folder opens with AutoModelForAudioFrameClassification:

    p = model(**inputs).logits.sigmoid()  # (batch, frames, labels)
    scores = (p * p).sum(1) / p.sum(1)  # (batch, labels)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    PreTrainedModel,
)
from transformers.trainer_utils import EvalPrediction

from ...pretraining.data.labels import Labels, encode_label_lists, is_list, number_labels
from ...pretraining.data.modality import Survey, path_of
from ...pretraining.data.sources import LABEL
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.build import modality_of
from ...pretraining.modalities.sound_files import AUDIO, SAMPLING_RATE
from ...pretraining.modalities.spectrogram import SpectrogramData
from ..arguments import FineTuneRun
from ..data_arguments import FineTuneDataArguments
from ..examples import Examples
from ..labels import labelled_examples, open_splits
from ..metrics import load, unweighted_accuracy
from ..mixing import MixingCollator
from ..predictions import SCORES_KEPT, classification_rows, write_confusion
from ..task import Collate, Task, TaskData
from ..task_arguments import TaskArguments
from .augment import SpecAugment
from .examples import ClipCollator, ClipReader, MixedExamples, Mixup, WeightedExamples, real_frames
from .folds import holding_out
from .heads import NormedClassifier, linear_softmax_logits


@dataclass(kw_only=True)
class AudioClassificationData(FineTuneDataArguments):
    """The `data` section of an audio-classification recipe."""

    max_seconds: float = field(
        default=10.0,
        metadata={"help": "crop longer clips to this: at random in training, to the start in evaluation"},
    )
    batch_seconds: float | None = field(
        default=None,
        metadata={
            "help": "limit of audio in a device's training batch, padding included; replaces "
            "per_device_train_batch_size"
        },
    )
    label_separator: str | None = field(
        default=None,
        metadata={"help": "what separates the labels of a clip in one text, such as the comma in 'Speech,Music'"},
    )
    folds: list[str | int] | None = field(
        default=None,
        metadata={
            "help": "cross-validation: splits of train.path, or values of fold_column. Each is the test set once;"
            " the command runs all of them and reports their mean"
        },
    )
    fold_column: str | None = field(
        default=None, metadata={"help": "column of train whose values are the folds, such as fold or speaker_id"}
    )
    fold: int | None = field(default=None, metadata={"help": "run only this fold, from 1"})
    processor: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "fields of the feature extractor that differ from the encoder's: {mean: ..., std: ...}"},
    )
    clips_per_epoch: int | None = field(
        default=None,
        metadata={
            "help": "train on this many clips per epoch, drawn without replacement, those with rare labels more often"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.max_seconds > 0, "max_seconds", "use a positive number")
        fits = self.batch_seconds is None or self.batch_seconds >= self.max_seconds
        self.require(fits, "batch_seconds", f"one clip of max_seconds = {self.max_seconds} does not fit: raise it")
        folds = self.folds or []
        self.require(self.folds is None or len(set(folds)) == len(folds) >= 2, "folds", "name 2 or more, each once")
        self.require(self.fold_column is None or bool(folds), "fold_column", "set folds as well, or leave it out")
        in_range = self.fold is None or 1 <= self.fold <= len(folds)
        self.require(in_range, "fold", f"use 1 to {len(folds)}" if folds else "set folds as well, or leave it out")
        self.require(not (folds and self.test), "test", "leave it out: with folds each is the test set once")
        drawn = self.clips_per_epoch
        self.require(drawn is None or drawn >= 1, "clips_per_epoch", "use 1 or more, or null for all clips")
        self.require(drawn is None or self.batch_seconds is None, "clips_per_epoch", "leave batch_seconds out with it")


@dataclass(kw_only=True)
class AudioClassificationArguments(TaskArguments):
    """The `task` section of an audio-classification recipe. Masking is the model's: model.mask_time_prob and so on."""

    pooling: Literal["mean", "linear_softmax"] = field(
        default="mean",
        metadata={
            "help": "how frames become one prediction per clip; mean is the usual model, see finetune/audio/task.py"
        },
    )
    multi_label: bool = field(default=False, metadata={"help": "a clip may have several labels, or none"})
    head_norm: bool = field(
        default=False,
        metadata={
            "help": "train with a batch norm before the classifier, folded into its weights at the end: see heads.py"
        },
    )
    binary_loss: bool = field(
        default=False,
        metadata={"help": "give each label its own probability (binary cross-entropy), even if clips have one label"},
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "share of the label to spread over all classes"})
    roll: bool = field(
        default=False,
        metadata={"help": "in training, rotate clips in time and scale them by 0.5 to 1.5"},
    )
    noise: float = field(
        default=0.0,
        metadata={"help": "largest uniform noise on training spectrograms, which are then also shifted in time"},
    )
    spec_augment: float = field(
        default=0.0, metadata={"help": "largest share of mel bins, and of frames, to mask in training"}
    )
    mixup: Literal["clips", "batches"] = field(
        default="clips",
        metadata={
            "help": "mix sounds, each with another clip of the set, or the encoder's inputs, a batch with its reverse"
        },
    )
    mixup_prob: float = field(default=0.0, metadata={"help": "share of the training clips or batches to mix"})
    mixup_beta: float = field(
        default=1.0,
        metadata={"help": "the mixing share is drawn from Beta(beta, beta); 1 is uniform"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.mixup_prob <= 1, "mixup_prob", "use a probability, 0 is off")
        self.require(0 <= self.label_smoothing < 1, "label_smoothing", "use 0 (off) to below 1")
        self.require(0 <= self.noise, "noise", "use 0 (off) or more")
        self.require(0 <= self.spec_augment < 1, "spec_augment", "use 0 (off) to below 1")
        self.require(self.mixup_beta > 0, "mixup_beta", "use a positive number")
        self.require(not self.head_norm or self.pooling == "mean", "head_norm", "leave it out, or use pooling: mean")


class AudioClassification(Task[AudioClassificationArguments, AudioClassificationData]):
    """See the module. Targets are (labels,) fp32 vectors, of 0 and 1 or mixed, whatever the task."""

    name = "audio_classification"
    script = "run_audio_classification.py"
    arguments_class = AudioClassificationArguments
    data_class = AudioClassificationData
    modalities = (AudioData,)
    config_fields = ()

    def __init__(self, run: FineTuneRun):
        super().__init__(run)
        self.main_metric = "mAP" if self.args.multi_label else "accuracy"
        self.pools_frames = self.args.pooling == "linear_softmax"
        self.auto_class = (
            AutoModelForAudioFrameClassification if self.pools_frames else AutoModelForAudioClassification
        )
        self.names: tuple[str, ...] = ()
        training = run.training
        if self.args.head_norm and (training.weights_ema_decay is not None or training.fsdp or training.deepspeed):
            self.args.refuse("head_norm", "leave it out with training.weights_ema_decay, fsdp or deepspeed")

    # ---- data ----

    def build_data(self) -> TaskData:
        splits = self._open()
        modality = self._modality()
        surveys = {split: modality.survey(rows, filtered=False) for split, rows in splits.items()}
        lengths = {split: survey.lengths for split, survey in surveys.items() if survey is not None}
        labels = self._number(splits)
        self.names = labels.names
        args, seed = self.args, self.run.training.seed
        read = ClipReader(modality, args.roll, args.noise)
        train, evaluation = labelled_examples(self.data_args, splits, labels, read, seed=seed, lengths=lengths)
        for split, examples in {"train": train, **evaluation}.items():
            self._refuse_bad(examples, surveys.get(split, surveys["train"]))  # validation may be a part of train
        self._check_masking(train, modality)
        if args.mixup_prob and args.mixup == "clips":
            train = MixedExamples(train, Mixup(args.mixup_prob, args.mixup_beta), len(self.names))
        if (draws := self.data_args.clips_per_epoch) is not None:
            most = len(train)
            self.data_args.require(draws <= most, "clips_per_epoch", f"use {most} or less, there are no more")
            train = WeightedExamples(train, draws)
        collator = ClipCollator(modality.collator(None, seed), len(self.names))
        seconds = self.data_args.batch_seconds
        return TaskData(
            train,
            evaluation,
            collator=collator,
            train_collator=self._train_collator(collator, seed),
            processor=modality.processor,
            label_names=self.names,
            problem_type="multi_label_classification" if self.args.multi_label else "single_label_classification",
            model_kwargs={"pooling": self.args.pooling},
            batch_cost=None if seconds is None else int(seconds * SAMPLING_RATE),
        )

    def _train_collator(self, collator: ClipCollator, seed: int) -> Collate:
        args = self.args
        alpha = args.mixup_beta if args.mixup == "batches" and args.mixup_prob else 0.0
        how = {"mixup_alpha": alpha, "probability": args.mixup_prob, "smoothing": args.label_smoothing}
        mixed: Collate = MixingCollator(collator, "input_values", len(self.names), seed, **how)
        return SpecAugment(mixed, args.spec_augment, seed) if args.spec_augment else mixed

    def _open(self) -> dict[str, Any]:
        args = self.data_args
        if args.folds is None:
            return open_splits(args, AUDIO)
        if args.fold is None:
            args.refuse("fold", f"use 1 to {len(args.folds)}; run_audio_classification.py runs all of them")
        train, test = holding_out(args.train, args.folds, int(args.fold or 0), args.fold_column)
        return open_splits(replace(args, train=train, test=test, folds=None, fold=None, fold_column=None), AUDIO)

    def _number(self, splits: Mapping[str, Any]) -> Labels:
        if self.args.multi_label:
            return encode_label_lists(splits, self.data_args.label_separator)
        for split, rows in splits.items():
            if is_list(rows.features[LABEL]) or self.data_args.label_separator is not None:
                raise ValueError(
                    f"data.{split}: the label column holds several labels per row: set task.multi_label = true, or "
                    "name another label_column and remove data.label_separator."
                )
        return number_labels(splits)

    def _refuse_bad(self, examples: Examples, survey: Survey | None) -> None:
        """A file whose header shows that it cannot be used stops the run before it starts."""
        bad = {} if survey is None or self.data_args.skip_bad else survey.bad
        for position in np.flatnonzero(np.isin(examples.kept, list(bad))):
            examples[int(position)]  # raises, with split, row, file and fix

    def _modality(self) -> AudioData:
        config, args = self.run.config, self.data_args
        try:
            processor = AutoFeatureExtractor.from_pretrained(
                self.run.checkpoint, trust_remote_code=False, **args.processor
            )
        except OSError:
            processor = None  # an encoder without one: that of pretraining
        unknown = next((name for name in args.processor if not hasattr(processor, name)), None)
        args.require(unknown is None, "processor", f"{unknown!r} is no field of the encoder's feature extractor")
        modality: Any = modality_of(config)
        settings = modality.arguments_class(
            sources=[args.train], max_seconds=args.max_seconds, min_seconds=0.0, num_proc=args.num_proc
        )
        found: AudioData = modality(settings, config, processor)
        if isinstance(found, SpectrogramData):
            sounds = self.args.mixup == "clips" and self.args.mixup_prob > 0
            self.args.require(not sounds, "mixup", f"use batches: {config.model_type} reads no waveforms")
        else:
            for name in ("noise", "spec_augment"):
                fits = not getattr(self.args, name)
                self.args.require(fits, name, f"leave it out: {config.model_type} reads no spectrograms")
        return found

    def _check_masking(self, train: Examples, modality: AudioData) -> None:
        """A mask longer than a clip would stop the run midway: refused beforehand."""
        config: Any = self.run.config
        if not getattr(config, "mask_time_prob", 0) or train.lengths is None:
            return
        shortest = int(train.lengths.argmin())
        frames = int(modality.num_frames(int(train.lengths[shortest])))
        if frames < config.mask_time_length:
            raise ValueError(
                f"model.mask_time_length = {config.mask_time_length} is invalid: row {train.kept[shortest]} of "
                f"data.train has {frames} frames. Use {frames} or less, or model.mask_time_prob = 0 (off)."
            )

    # ---- training ----

    def build_model(self, data: TaskData) -> PreTrainedModel:
        model: Any = super().build_model(data)
        if self.args.head_norm:
            model.classifier = NormedClassifier(model.classifier)
        return model

    def after_training(self, trainer: Any, data: TaskData) -> None:
        """What is evaluated and saved is the usual model."""
        if self.args.head_norm:
            classifier = trainer.model.classifier
            for statistic in (classifier.norm.running_mean, classifier.norm.running_var):
                statistic.copy_(trainer.accelerator.reduce(statistic.clone(), "mean"))  # each process has seen its own
            trainer.model.classifier = classifier.folded()

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        labels = inputs["labels"]  # (batch, labels) fp32
        given = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**given).logits
        if self.pools_frames:
            logits = linear_softmax_logits(logits, real_frames(model, given, logits.shape[1]))
        logits = logits.float()  # (batch, labels)
        if self.pools_frames or self.args.multi_label or self.args.binary_loss:
            loss = binary_cross_entropy_with_logits(logits, labels)
        else:
            loss = cross_entropy(logits, labels)
        return loss, {"loss": loss, "logits": logits}

    # ---- evaluation ----

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(predictions.predictions), np.asarray(predictions.label_ids)
        if self.args.multi_label:
            return load("mean_average_precision").compute(predictions=logits, references=labels)
        predicted, right = logits.argmax(1), labels.argmax(1)
        return load("accuracy").compute(predictions=predicted, references=right) | {
            "unweighted_accuracy": unweighted_accuracy(predicted, right)
        }

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        logits, targets = np.asarray(predictions), np.asarray(labels)
        if not (self.args.multi_label or self.pools_frames):
            return classification_rows(logits, targets.argmax(1), self.names, examples, _file)
        return [self._row(i, logits[i], targets[i], examples) for i in range(len(examples))]

    def _row(self, i: int, logits: np.ndarray, target: np.ndarray, examples: Examples) -> dict[str, Any]:
        """Of labels that have a probability each, whatever the others'."""
        given = torch.from_numpy(logits).double()  # (labels,)
        chances = given.sigmoid()
        likeliest = chances.argsort(descending=True, stable=True).tolist()
        label: Any = [self.names[j] for j in np.flatnonzero(target > 0.5)]
        prediction: Any = [self.names[j] for j in likeliest if chances[j] > 0.5]
        if not self.args.multi_label:
            label, prediction = label[0], self.names[likeliest[0]]
        return {
            "id": int(examples.kept[i]),
            "input": _file(examples.row(i)),
            "label": label,
            "prediction": prediction,
            "scores": {self.names[j]: round(float(chances[j]), 6) for j in likeliest[:SCORES_KEPT]},
            "error": round(float(binary_cross_entropy_with_logits(given, torch.from_numpy(target).double())), 6),
        }

    def write_extra(self, folder: Path, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if not self.args.multi_label:
            write_confusion(folder, split, rows, self.names)


def _file(row: Mapping[str, Any]) -> str:
    return path_of(row, AUDIO.column) or ""
