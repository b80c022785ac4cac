"""Prepares clips of video and skeletons as SV-data2vec's pretraining did; it is saved beside the weights."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, FeatureExtractionMixin, PreTrainedConfig


IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class SvData2VecFeatureExtractor(FeatureExtractionMixin):
    """Frames of a clip at equal distances, resized and normalised, and the skeletons in the pixels of those frames.

    Args:
        num_frames (`int`): of a clip; a shorter one repeats frames.
        image_size (`int`): height and width of a frame.
        num_persons (`int`): of a skeleton; zeros stand for one who is not there, and more are left out.
        image_mean, image_std (`list[float]`): of each channel, of values from 0 to 1.
    """

    model_input_names = ["pixel_values", "keypoint_values"]
    _auto_class = "AutoFeatureExtractor"

    def __init__(
        self,
        num_frames: int = 40,
        image_size: int = 224,
        num_persons: int = 2,
        image_mean: Any = IMAGE_MEAN,
        image_std: Any = IMAGE_STD,
        **kwargs: Any,
    ) -> None:
        for name, value in (("num_frames", num_frames), ("image_size", image_size), ("num_persons", num_persons)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be 1 or more.")
        self.num_frames, self.image_size, self.num_persons = num_frames, image_size, num_persons
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        super().__init__(**kwargs)

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "SvData2VecFeatureExtractor":
        """What an encoder of `config` reads."""
        return cls(config.max_position_embeddings, config.image_size, config.num_persons)

    def frames_of(self, frames: int) -> Tensor:
        """Numbers `(num_frames,)` of the frames that are read, of so many."""
        return torch.linspace(0, frames - 1, self.num_frames).round().long()

    def video(self, frames: Any) -> Tensor:
        """`(frames, height, width, channels)` from 0 to 255 -> `(num_frames, channels, image_size, image_size)`."""
        clip = torch.as_tensor(frames)
        if clip.dim() != 4 or clip.shape[3] != len(self.image_mean) or not len(clip):
            raise ValueError(
                f"a video has the shape {tuple(clip.shape)}: pass (frames, height, width, {len(self.image_mean)})."
            )
        clip = clip[self.frames_of(len(clip))].permute(0, 3, 1, 2).float() / 255
        size = (self.image_size, self.image_size)
        if clip.shape[2:] != size:
            clip = F.interpolate(clip, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.image_mean, self.image_std))
        return (clip - mean) / std

    def skeleton(self, keypoints: Any, height: int | None = None, width: int | None = None) -> Tensor:
        """`(frames, persons, joints, 2)`, or without an axis of persons, x and y in pixels of frames of this size
        -> `(num_frames, num_persons, joints, 2)` in pixels of the resized frames.
        """
        points = torch.as_tensor(keypoints, dtype=torch.float32)
        points = points.unsqueeze(1) if points.dim() == 3 else points
        if points.dim() != 4 or points.shape[3] != 2 or 0 in points.shape:
            raise ValueError(f"a skeleton has the shape {tuple(points.shape)}: pass (frames, persons, joints, 2).")
        if not points.isfinite().all():
            raise ValueError("a skeleton holds NaN or infinite coordinates: use zeros for joints that were not found.")
        points = points[self.frames_of(len(points)), : self.num_persons]
        points = F.pad(points, (0, 0, 0, 0, 0, self.num_persons - points.shape[1]))
        sides = [self.image_size if side is None else side for side in (width, height)]
        return points * self.image_size / torch.tensor(sides)

    def __call__(self, videos: Any = None, keypoints: Any = None, **kwargs: Any) -> BatchFeature:
        """
        Args:
            videos: one clip `(frames, height, width, channels)` from 0 to 255, or a list of such; arrays or tensors.
            keypoints: `(frames, persons, joints, 2)` of the same clip, or a list of such: x and y in pixels of its
                frames, or of frames of `image_size` where there is no video.

        Returns:
            `pixel_values` `(batch, num_frames, channels, image_size, image_size)` and `keypoint_values`
            `(batch, num_frames, num_persons, joints, 2)`, what was given of the two.

        Raises:
            ValueError: another shape, coordinates that are not finite, or no input.
        """
        clips, skeletons = (None if given is None else _listed(given) for given in (videos, keypoints))
        batch: dict[str, Tensor] = {}
        if clips is not None:
            batch["pixel_values"] = torch.stack([self.video(clip) for clip in clips])
        if skeletons is not None:
            sizes = [(None, None)] * len(skeletons) if clips is None else [tuple(clip.shape[1:3]) for clip in clips]
            if len(sizes) != len(skeletons):
                raise ValueError(f"There are {len(sizes)} videos and {len(skeletons)} skeletons: pass one for each.")
            points = [self.skeleton(points, *size) for points, size in zip(skeletons, sizes, strict=True)]
            batch["keypoint_values"] = torch.stack(points)
        if not batch:
            raise ValueError("Pass videos, keypoints or both.")
        return BatchFeature(batch)


def _listed(given: Any) -> list[Tensor]:
    return [torch.as_tensor(one) for one in (given if isinstance(given, list | tuple) else [given])]
