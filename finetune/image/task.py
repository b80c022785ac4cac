"""Image classification."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.trainer_utils import EvalPrediction

from ...pretraining.data.labels import number_labels
from ...pretraining.data.row_choice import rows_to_look_at
from ...pretraining.modalities.image import ImageCollator, ImageData, compare_images
from ..classification import Classification
from ..labels import labelled_examples, open_splits
from ..metrics import load
from ..mixing import MixingCollator
from ..task import TaskData
from .arguments import ImageClassificationArguments, ImageClassificationData
from .reading import ImageReader


logger = logging.getLogger(__name__)


class ImageClassification(Classification[ImageClassificationArguments, ImageClassificationData]):
    """One class per image, for the v1 and 2.0 encoders alike."""

    name = "image_classification"
    script = "run_image_classification.py"
    arguments_class = ImageClassificationArguments
    data_class = ImageClassificationData
    modalities = (ImageData,)
    config_fields = ("image_size", "patch_size", "num_channels")
    auto_class = AutoModelForImageClassification

    def build_data(self) -> TaskData:
        splits = open_splits(self.data_args, self.kind)
        labels = number_labels(splits)
        reader = ImageReader(self.run, self.args, self.data_args)
        lost = compare_images(rows_to_look_at(splits["train"]), reader.size, reader.channels).lost(reader.size)
        if lost is not None:
            logger.warning("data.train: %s", lost)
        seed = self.run.training.seed
        train, evaluation = labelled_examples(self.data_args, splits, labels, reader.read, seed=seed)
        self.names = labels.names
        args, collator = self.args, ImageCollator(None, reader.grid, seed)
        return TaskData(
            train,
            evaluation,
            collator=collator,
            train_collator=MixingCollator(
                collator,
                "pixel_values",
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

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        metrics = super().compute_metrics(predictions)
        if len(self.names) > 5:
            metrics |= load("top5").compute(predictions=predictions.predictions, references=predictions.label_ids)
        return metrics
