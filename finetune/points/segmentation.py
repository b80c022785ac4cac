"""Part segmentation: which part of its object is each point?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_utils import EvalPrediction

from ...modeling.heads_point2vec import Point2VecForPartSegmentation
from ...pretraining.console.progress import progress
from ...pretraining.data.labels import number_labels
from ...pretraining.data.modality import describe
from ..arguments import FineTuneRun
from ..examples import Examples
from ..labels import labelled_examples, open_splits
from ..task import TaskData
from .arguments import PointsFineTuneData, PointsTaskArguments
from .classification import PointsTask
from .reading import IGNORED, PointsReader, collate_clouds, read_parts


class PartSegmentation(PointsTask):
    """A part for each point; a cloud's label is its category, which is given.

    A point's last number in its file is its part; a part belongs to one category, as in ShapeNetPart.
    """

    name = "part_segmentation"
    script = "run_part_segmentation.py"
    arguments_class = PointsTaskArguments
    data_class = PointsFineTuneData
    auto_class = Point2VecForPartSegmentation
    main_metric = "instance_miou"

    def __init__(self, run: FineTuneRun):
        super().__init__(run)
        self.args.require(self.args.votes == 1, "votes", "leave it out: part segmentation does not vote")
        self.names: tuple[str, ...] = ()
        self.category_of = torch.zeros(0, dtype=torch.long)  # of each part

    def build_data(self) -> TaskData:
        splits = open_splits(self.data_args, self.kind)
        labels = number_labels(splits)
        reader = PointsReader(self.run, self.args, self.data_args)

        def read(row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Tensor]:
            return read_parts(reader, row, rng)

        train, evaluation = labelled_examples(self.data_args, splits, labels, read, seed=self.run.training.seed)
        self.names = labels.names
        self.category_of = parts_of([train, *evaluation.values()], labels.names)
        return TaskData(
            train,
            evaluation,
            collator=collate_clouds,
            processor=reader.processor,
            label_names=tuple(f"{labels.names[kind]} {part}" for part, kind in enumerate(self.category_of.tolist())),
            model_kwargs={"num_categories": len(labels.names)},
        )

    def preprocess_logits(self, logits: Any, labels: Any) -> Tensor:
        """The likeliest part (batch, points) among those of the cloud's category, which its labels say."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        category_of = self.category_of.to(logits.device)
        category = category_of[labels.amax(1)]  # (batch,), padding is below every part
        others = category_of != category.unsqueeze(1)  # (batch, parts)
        chosen: Tensor = logits.masked_fill(others.unsqueeze(1), -torch.inf).argmax(-1)
        return chosen

    def compute_metrics(self, predictions: EvalPrediction) -> dict[str, float]:
        chosen, labels = (
            np.asarray(predictions.predictions),
            np.asarray(predictions.label_ids),
        )  # (clouds, points) each
        ious, kinds = self._ious(chosen, labels)
        real = labels != IGNORED
        return {
            "instance_miou": float(ious.mean()),
            "class_miou": float(np.mean([ious[kinds == kind].mean() for kind in np.unique(kinds)])),
            "point_accuracy": float((chosen == labels)[real].mean()),
        }

    def _ious(self, predicted: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each cloud the mean over its category's parts of intersection over union, and its category."""
        category_of = self.category_of.numpy()
        kinds = category_of[labels.max(1)]
        means = []
        for chosen, right, kind in zip(predicted, labels, kinds, strict=True):
            there = right != IGNORED
            chosen, right = chosen[there], right[there]
            shares = []
            for part in np.flatnonzero(category_of == kind):
                union = ((chosen == part) | (right == part)).sum()  # a part that nobody sees counts as right
                shares.append(1.0 if union == 0 else ((chosen == part) & (right == part)).sum() / union)
            means.append(np.mean(shares))
        return np.array(means), kinds

    def rows(self, predictions: Any, labels: Any, examples: Examples) -> list[dict[str, Any]]:
        ious, kinds = self._ious(predictions, labels)
        return [
            {
                "id": int(examples.kept[i]),
                "input": describe(examples.row(i), self.kind.column),
                "label": self.names[kind],
                "prediction": self.names[kind],
                "miou": round(float(iou), 6),
                "error": round(1 - float(iou), 6),
            }
            for i, (iou, kind) in enumerate(zip(ious, kinds, strict=True))
        ]


def parts_of(splits: Sequence[Examples], names: Sequence[str]) -> Tensor:
    """The category (parts,) of each part, from all clouds, which are read once.

    Raises:
        ValueError: a part is in two categories, or a number between them in none.
    """
    found: dict[int, int] = {}
    for examples in splits:
        for index in progress(
            range(len(examples)), title=f"parts of {examples.name}", unit=" clouds", total=len(examples)
        ):
            example = examples.only(np.array([index]), augment=False)[0]
            for part in example["parts"].unique().tolist():
                kind = found.setdefault(part, example["labels"])
                if kind != example["labels"]:
                    raise ValueError(
                        f"data.{examples.name}: part {part} is in clouds of {names[kind]!r} and of "
                        f"{names[example['labels']]!r}: number parts across categories, each in one of them."
                    )
    missing = sorted(set(range(max(found) + 1)) - found.keys())
    if missing:
        raise ValueError(f"data: no cloud has part {missing[0]}, the highest is {max(found)}: number parts from 0.")
    return torch.tensor([found[part] for part in range(len(found))])
