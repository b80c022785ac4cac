"""Image classification: what a recipe says, images as training and evaluation read them, and the task."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.trainer_utils import EvalPrediction

from ...pretraining.data.arguments import CheckedArguments
from ...pretraining.data.collators import ImageCollator
from ...pretraining.data.image import IMAGE
from ...pretraining.data.labels import number_labels
from ...pretraining.data.modality import describe
from ..arguments import FineTuneRun
from ..data_arguments import FineTuneDataArguments
from ..examples import Examples
from ..labels import labelled_examples, open_splits
from ..metrics import Accuracy, TopK
from ..predictions import classification_rows, write_confusion
from ..task import Task, TaskData
from .mixing import MixingCollator
from .reading import ImageReader


@dataclass(kw_only=True)
class ImageClassificationArguments(CheckedArguments):
    """The `task` section: augmentation of training images, and the head.

    The defaults are off, so that a recipe names all that it does; the sources are beside the numbers there.
    """

    where: ClassVar[str] = "task"

    pooling: Literal["mean", "cls"] = field(
        default="mean", metadata={"help": "what the head reads: the mean of the patches, or the class token"}
    )
    crop: Literal["random_resized", "shift", "none"] = field(
        default="random_resized", metadata={"help": "as data.crop of a pretraining recipe"}
    )
    crop_area: list[float] = field(
        default_factory=lambda: [0.08, 1.0], metadata={"help": "smallest and largest area of a random_resized crop"}
    )
    shift_pixels: int = field(default=0, metadata={"help": "how far crop: shift moves an image; edges are repeated"})
    flip: float = field(default=0.0, metadata={"help": "probability of a horizontal flip"})
    rand_augment_operations: int = field(default=0, metadata={"help": "operations of RandAugment; 0 is off"})
    rand_augment_magnitude: float = field(default=9.0, metadata={"help": "strength of each of them, 0 to 10"})
    rand_augment_spread: float = field(default=0.5, metadata={"help": "standard deviation of the strength"})
    rand_augment_probability: float = field(default=0.5, metadata={"help": "of a drawn operation to be applied"})
    erasing: float = field(default=0.0, metadata={"help": "probability of random erasing"})
    mixup: float = field(default=0.0, metadata={"help": "alpha of mixup: its share is drawn from Beta(alpha, alpha)"})
    cutmix: float = field(default=0.0, metadata={"help": "alpha of cutmix; with both, either one at even odds"})
    mix_probability: float = field(default=1.0, metadata={"help": "of a batch to be mixed at all"})
    label_smoothing: float = field(default=0.0, metadata={"help": "share of a target spread over all classes"})

    head_scale: float = field(default=1.0, metadata={"help": "factor of the head's weights at the start"})

    def __post_init__(self) -> None:
        super().__post_init__()
        low_to_high = len(self.crop_area) == 2 and 0 < self.crop_area[0] <= self.crop_area[1] <= 1
        self.require(low_to_high, "crop_area", "use two shares, [smallest, largest], in (0, 1]")
        shifts = (self.crop == "shift") == (self.shift_pixels > 0)
        self.require(shifts and self.shift_pixels >= 0, "shift_pixels", "use 1 or more with crop: shift, 0 without")
        for name in ("flip", "erasing", "rand_augment_probability", "mix_probability"):
            self.require(0 <= getattr(self, name) <= 1, name, "use a probability")
        self.require(0 <= self.rand_augment_magnitude <= 10, "rand_augment_magnitude", "use 0 to 10")
        for name in ("mixup", "cutmix", "rand_augment_operations", "rand_augment_spread"):
            self.require(getattr(self, name) >= 0, name, "use 0 (off) or more")
        self.require(self.head_scale > 0, "head_scale", "use a positive number")
        self.require(0 <= self.label_smoothing < 1, "label_smoothing", "use 0 (off) to below 1")


@dataclass(kw_only=True)
class ImageClassificationData(FineTuneDataArguments):
    """The `data` section."""

    resolution: int | list[int] | None = field(
        default=None,
        metadata={
            "help": "height and width that images are read at (default: the encoder's image_size); positions "
            "are interpolated"
        },
    )
    center_crop: float | None = field(
        default=None,
        metadata={
            "help": "evaluation resizes the shorter side to resolution / center_crop and crops the middle; null: the "
            "whole image is resized, its aspect with it"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.center_crop
        self.require(share is None or 0 < share <= 1, "center_crop", "use a share, such as 0.875, or null")


class ImageClassification(Task[ImageClassificationArguments, ImageClassificationData]):
    """One class per image, for the v1 and 2.0 encoders alike."""

    name = "image_classification"
    script = "run_image_classification.py"
    arguments_class = ImageClassificationArguments
    data_class = ImageClassificationData
    auto_class = AutoModelForImageClassification
    main_metric = "accuracy"

    def __init__(self, run: FineTuneRun):
        super().__init__(run)
        self.names: tuple[str, ...] = ()

    def build_data(self) -> TaskData:
        splits = open_splits(self.data_args, IMAGE)
        labels = number_labels(splits)
        reader = ImageReader(self.run, self.args, self.data_args)
        seed = self.run.training.seed
        train, evaluation = labelled_examples(self.data_args, splits, labels, reader.read, seed=seed)
        self.names = labels.names
        args = self.args
        return TaskData(
            train,
            evaluation,
            collator=ImageCollator(None, reader.grid, seed),
            train_collator=MixingCollator(
                len(labels.names),
                seed,
                mixup_alpha=args.mixup,
                cutmix_alpha=args.cutmix,
                probability=args.mix_probability,
                smoothing=args.label_smoothing,
            ),
            processor=reader.processor,
            label_names=labels.names,
            problem_type="single_label_classification",
        )

    def build_model(self, data: TaskData) -> PreTrainedModel:
        config: Any = self.run.config
        mean = self.args.pooling == "mean"
        if self.run.config_overrides.get("use_mean_pooling", mean) != mean:
            raise ValueError("model.use_mean_pooling is task.pooling here: leave it out and set that one.")
        config.use_mean_pooling = mean
        model: Any = super().build_model(data)
        with torch.no_grad():
            model.classifier.weight.mul_(self.args.head_scale)
        return model

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Cross-entropy with class numbers (batch,) or, after mixing, with shares of classes (batch, classes)."""
        labels = inputs["labels"]
        outputs = model(pixel_values=inputs["pixel_values"])
        return cross_entropy(outputs.logits.float(), labels), outputs

    def preprocess_logits(self, logits: Any, labels: Any) -> Tensor:
        return logits[0] if isinstance(logits, tuple) else logits  # attentions and the like may follow

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        logits, labels = predictions.predictions, predictions.label_ids  # (examples, classes), (examples,)
        right = Accuracy(keep_in_memory=True).compute(predictions=np.argmax(logits, axis=1), references=labels)
        if len(self.names) <= 5:
            return right
        return right | TopK(keep_in_memory=True).compute(predictions=logits, references=labels, k=5)

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        return classification_rows(predictions, labels, self.names, examples, lambda row: describe(row, IMAGE.column))

    def write_extra(self, folder: Any, split: str, rows: Any) -> None:
        write_confusion(folder, split, rows, self.names)
