"""Classification of point clouds."""

from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...modeling.heads_point2vec import Point2VecForPointCloudClassification
from ...pretraining.data.labels import number_labels
from ...pretraining.modalities.points import PointsData
from ..classification import Classification
from ..labels import draw_per_class, labelled_examples, open_splits
from ..task import Task, TaskData
from .arguments import PointCloudClassificationData, PointsTaskArguments
from .reading import PointsReader, collate_clouds


class PointsTask(Task[Any, Any]):
    """What tasks on point clouds share: tokenizer and positions are never frozen with the blocks."""

    arguments_class = PointsTaskArguments
    modalities = (PointsData,)
    config_fields = ("num_groups", "group_size")

    def frozen_at_first(self, model: PreTrainedModel) -> list[nn.Parameter]:
        encoder: Any = model.base_model
        return list(encoder.encoder.parameters())


class PointCloudClassification(PointsTask, Classification[Any, Any]):
    """One class a cloud, with the published head (arXiv 2303.16570, section 4)."""

    name = "point_cloud_classification"
    script = "run_point_cloud_classification.py"
    data_class = PointCloudClassificationData
    auto_class = Point2VecForPointCloudClassification

    def build_data(self) -> TaskData:
        args, seed = self.data_args, self.run.training.seed
        splits = open_splits(args, self.kind)
        labels = number_labels(splits)
        if args.ways is not None:
            splits = self._episode(splits, labels, args.ways, seed)
            labels = number_labels(splits)
        reader = PointsReader(self.run, self.args, args)
        train, evaluation = labelled_examples(args, splits, labels, reader.read, seed=seed)
        if args.test_per_class is not None:
            evaluation = {
                name: part.only(draw_per_class(np.asarray(part.labels), args.test_per_class, labels.names, seed))
                for name, part in evaluation.items()
            }
        self.names = labels.names
        return TaskData(
            train,
            evaluation,
            collator=collate_clouds,
            processor=reader.processor,
            label_names=labels.names,
            problem_type="single_label_classification",
        )

    def _episode(self, splits: dict[str, Any], labels: Any, ways: int, seed: int) -> dict[str, Any]:
        """The rows of so many classes, drawn with the run's seed."""
        self.data_args.require(ways <= len(labels.names), "ways", f"there are {len(labels.names)} classes: use fewer")
        chosen = np.random.default_rng(seed).choice(len(labels.names), ways, replace=False)
        return {
            name: rows.select(np.flatnonzero(np.isin(labels.numbers[name], chosen))) for name, rows in splits.items()
        }

    def loss(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """The model's own or, evaluated with votes, that of the mean of the probabilities of several groupings."""
        outputs = model(**inputs)
        if model.training or self.args.votes == 1:
            return outputs["loss"], outputs
        points, mask = inputs["point_values"], inputs.get("attention_mask")
        sizes = points.new_full((len(points),), points.shape[1]).long() if mask is None else mask.sum(1)
        chances = outputs["logits"].float().softmax(-1)
        for vote in range(1, self.args.votes):
            start = sizes * vote // self.args.votes  # (batch,)
            chances = chances + model(**inputs | {"start": start})["logits"].float().softmax(-1)
        outputs["logits"] = (chances / self.args.votes).log()
        return nn.functional.nll_loss(outputs["logits"], inputs["labels"]), outputs
