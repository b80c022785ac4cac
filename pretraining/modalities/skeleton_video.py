"""Videos with the skeletons of the persons in them -> frames and joints on one clock."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, PreTrainedConfig

from ...modeling.feature_extraction_sv_data2vec import SvData2VecFeatureExtractor
from ..data.arguments import DataArguments
from ..data.bad_examples import BadExample
from ..data.file_types import content_of, unopened
from ..data.modality import Row, describe
from ..data.sources import MediaKind
from .streams import StreamsData
from .video_files import VIDEO, read_video


SKELETON = MediaKind(
    column="skeleton",
    feature=None,
    extensions=(".npy", ".npz"),
    known_columns=("skeleton", "keypoints", "joints", "poses"),
)
KIND = MediaKind(VIDEO.column, VIDEO.feature, VIDEO.extensions, VIDEO.known_columns, beside=(SKELETON,))
INPUTS = {"video": "pixel_values", "skeleton": "keypoint_values"}
ARRAYS = ("keypoints", "skeleton", "joints", "poses", "arr_0")  # in an npz of several arrays


@dataclass(kw_only=True)
class SkeletonVideoDataArguments(DataArguments):
    """The `data` fields of a recipe on video and skeletons."""

    flip: float = field(default=0.5, metadata={"help": "share of clips to mirror horizontally"})
    probe_streams: list[Literal["video", "skeleton"]] = field(
        default_factory=lambda: ["video"], metadata={"help": "streams for the probes"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.flip <= 1, "flip", "use a share from 0 to 1")
        known = bool(self.probe_streams) and set(self.probe_streams) <= set(INPUTS)
        self.require(known, "probe_streams", "use [video], [skeleton] or [video, skeleton]")


class SkeletonVideoData(StreamsData[SkeletonVideoDataArguments]):
    """See `Modality`. An example is {"pixel_values": (frames, channels, height, width) fp32, "keypoint_values":
    (frames, persons, joints, 2) fp32}.
    """

    name = "videos with skeletons"
    arguments_class = SkeletonVideoDataArguments
    kind = KIND
    inputs = INPUTS
    streams = tuple(INPUTS)
    config_fields = ("num_joints", "resnet_width")
    processor_class = AutoFeatureExtractor
    shapes = ("(batch, frames, channels, height, width)", "(batch, frames, dim)")

    def __init__(self, args: SkeletonVideoDataArguments, config: PreTrainedConfig, processor: Any = None):
        self.args, self.joints, self.channels = args, int(config.num_joints), int(config.num_channels)
        self.processor = processor or SvData2VecFeatureExtractor.of(config)
        if self.processor.num_frames > config.max_position_embeddings:
            raise ValueError(
                f"The processor reads num_frames = {self.processor.num_frames} of a clip: the encoder has positions "
                f"for max_position_embeddings = {config.max_position_embeddings}."
            )

    @classmethod
    def smallest_grid(cls, args: SkeletonVideoDataArguments, config: PreTrainedConfig) -> tuple[tuple[int, ...], str]:
        frames = config.max_position_embeddings
        return (frames,), f"model.max_position_embeddings = {frames}"

    def read(self, row: Row, rng: np.random.Generator | None, limit: int | None = None) -> dict[str, Tensor]:
        name, size = describe(row, VIDEO.column), self.processor.image_size
        clip = read_video(row[VIDEO.column], name, self.channels, (size, size))
        pixels, mirror = self.processor.video(clip.frames), rng is not None and rng.random() < self.args.flip
        pixels = pixels.flip(-1) if mirror else pixels
        if "skeleton" not in self.streams:
            return {"pixel_values": pixels}
        other = describe(row, SKELETON.column)
        points = self.read_skeleton(row[SKELETON.column], other)
        if len(points) != len(clip.frames):
            raise BadExample(
                f"{name} has {len(clip.frames)} frames, its skeleton {other} has {len(points)}: they must be of the "
                "same clip, one skeleton a frame.",
                problem="damaged",
            )
        keypoints = self.processor.skeleton(points, *clip.size)
        return {"pixel_values": pixels, "keypoint_values": mirrored(keypoints, size) if mirror else keypoints}

    def read_skeleton(self, value: Any, name: str) -> np.ndarray:
        """(frames, persons, joints, 2) of a file, or of numbers in a row."""
        try:
            points = np.asarray(_numbers(value), dtype=np.float32)
        except Exception as error:  # a damaged file can raise anything
            raise unopened(value, name, "a skeleton", {"a ZIP archive"}, error) from error
        points = points[:, None] if points.ndim == 3 else points
        if points.ndim != 4 or points.shape[2:] != (self.joints, 2) or 0 in points.shape:
            raise BadExample(
                f"{name} has the shape {points.shape}: with model.num_joints = {self.joints} a skeleton is (frames, "
                f"persons, {self.joints}, 2).",
                problem="damaged",
            )
        if not np.isfinite(points).all():
            raise BadExample(f"{name} holds NaN or infinite coordinates: write zeros for them.", problem="not finite")
        return points


def _numbers(value: Any) -> Any:
    if not (isinstance(value, str | bytes) or (isinstance(value, Mapping) and {"bytes", "path"} & value.keys())):
        return value
    content = content_of(value)
    loaded = np.load(io.BytesIO(content) if isinstance(content, bytes) else content, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as arrays:
        names = list(arrays) if len(arrays) == 1 else [name for name in ARRAYS if name in arrays]
        if not names:
            raise ValueError(f"it holds the arrays {', '.join(arrays)}, none of them called {ARRAYS[0]}")
        return arrays[names[0]]


def mirrored(keypoints: Tensor, width: int) -> Tensor:
    """Joints of frames that were mirrored; zeros stay what they are, and left and right joints change no names."""
    there = (keypoints != 0).any(-1, keepdim=True)
    flipped = torch.stack((width - 1 - keypoints[..., 0], keypoints[..., 1]), dim=-1)
    return torch.where(there, flipped, keypoints)
