"""A row with a cloud -> {"point_values": (points, 3), ...}: augmented for training, plain for evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...modeling.feature_extraction_point2vec import Point2VecFeatureExtractor
from ...pretraining.data.bad_examples import BadExample
from ...pretraining.data.modality import describe
from ...pretraining.modalities.point_files import POINTS, read_points
from ...pretraining.modalities.points import MESH_SAMPLES, PointsData, augmented, pad_clouds
from ..arguments import FineTuneRun
from .arguments import PointsFineTuneData, PointsTaskArguments


IGNORED = -100  # the part of a padded point


class PointsReader:
    """Reads clouds for an encoder.

    Attributes:
        processor: that of the checkpoint, with the recipe's number of points.

    Raises:
        ValueError: the checkpoint has no processor.
    """

    def __init__(self, run: FineTuneRun, args: PointsTaskArguments, data: PointsFineTuneData):
        self.args, self.data = args, data
        config: Any = run.config
        self.least = max(config.num_groups, config.group_size)
        found = PointsData.open_processor(str(run.checkpoint))
        if found is None:
            raise ValueError(
                f"model.model_name_or_path = {run.checkpoint!r} has no preprocessor_config.json, which says how "
                "clouds are sampled and scaled: save the one it was pretrained with beside it."
            )
        self.processor = Point2VecFeatureExtractor(
            num_points=data.num_points or found.num_points,
            sampling=found.sampling,
            do_normalize=found.do_normalize,
        )

    def read(self, row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Tensor]:
        """One cloud; `rng` draws sample, augmentation and first centre. Raises `BadExample`."""
        points, start, _ = self.read_table(row, rng)
        return {"point_values": points} | start

    def read_table(
        self, row: Mapping[str, Any], rng: np.random.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor], np.ndarray]:
        """The sampled and augmented points, `start` in training, and the rows of the file that they are."""
        name = describe(row, POINTS.column)
        drawn = np.random.default_rng(0) if rng is None else rng
        samples = MESH_SAMPLES * self.processor.num_points
        table = read_points(row[POINTS.column], name, self.data.point_columns, samples, drawn)
        if len(table) < self.least:
            raise BadExample(
                f"{name} has {len(table)} points: the encoder groups {self.least} or more.", "too few points"
            )
        points = torch.from_numpy(np.ascontiguousarray(table[:, :3]))
        kept = self.processor.sample(points, None if rng is None else int(rng.integers(2**31)))
        table, points = table[kept.numpy()], points[kept]
        if rng is None:
            return self.processor.normalize(points), {}, table
        start = torch.tensor(int(rng.integers(len(points))))
        return augmented(points, self.processor, self.args, rng), {"start": start}, table


def read_parts(reader: PointsReader, row: Mapping[str, Any], rng: np.random.Generator | None) -> dict[str, Tensor]:
    """A cloud whose file says of each point, in its last column, which part it is: also `parts` (points,) long."""
    points, start, table = reader.read_table(row, rng)
    parts = table[:, -1]
    if table.shape[1] < 4 or (parts != parts.round()).any() or parts.min() < 0:
        name = describe(row, POINTS.column)
        raise BadExample(
            f"{name} has no part for each point: a point's last number is its part, 0 or more.", "damaged"
        )
    return {"point_values": points, "parts": torch.from_numpy(parts.astype(np.int64))} | start


def collate_clouds(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """point_values, attention_mask where clouds differ, start in training, and labels (batch,); where clouds have
    parts, these are labels (batch, points), and the clouds' own are categories (batch,)."""
    batch = pad_clouds(examples)
    own = torch.tensor([example["labels"] for example in examples])
    if "parts" not in examples[0]:
        return batch | {"labels": own}
    parts = torch.nn.utils.rnn.pad_sequence([e["parts"] for e in examples], batch_first=True, padding_value=IGNORED)
    return batch | {"categories": own, "labels": parts}
