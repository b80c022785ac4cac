"""What a recipe of image classification says: its sections `task` and `data`."""

from dataclasses import dataclass, field
from typing import Literal

from ..data_arguments import FineTuneDataArguments
from ..task_arguments import TaskArguments


@dataclass(kw_only=True)
class ImageClassificationArguments(TaskArguments):
    """The `task` section: augmentation of training images, and the head.

    The defaults are off, so that a recipe names all that it does; the sources are beside the numbers there.
    """

    pooling: Literal["mean", "cls"] = field(
        default="mean", metadata={"help": "input of the head: the mean of the patches, or the class token"}
    )
    crop: Literal["random_resized", "shift", "none"] = field(
        default="random_resized", metadata={"help": "as data.crop of a pretraining recipe"}
    )
    crop_area: list[float] = field(
        default_factory=lambda: [0.08, 1.0], metadata={"help": "smallest and largest area of a random_resized crop"}
    )
    shift_pixels: int = field(default=0, metadata={"help": "how far `crop: shift` moves an image; edges are repeated"})
    flip: float = field(default=0.0, metadata={"help": "probability of a horizontal flip"})
    rand_augment_operations: int = field(default=0, metadata={"help": "operations of RandAugment; 0 is off"})
    rand_augment_magnitude: float = field(default=9.0, metadata={"help": "strength of each of them, 0 to 10"})
    rand_augment_spread: float = field(default=0.5, metadata={"help": "standard deviation of the strength"})
    rand_augment_probability: float = field(
        default=0.5, metadata={"help": "probability of applying a drawn operation"}
    )
    erasing: float = field(default=0.0, metadata={"help": "probability of random erasing"})
    mixup: float = field(
        default=0.0, metadata={"help": "alpha of mixup: the mixing share is drawn from Beta(alpha, alpha)"}
    )
    cutmix: float = field(
        default=0.0, metadata={"help": "alpha of cutmix; with both above 0, each batch gets one of them at random"}
    )
    mix_probability: float = field(default=1.0, metadata={"help": "probability of mixing a batch at all"})
    label_smoothing: float = field(default=0.0, metadata={"help": "share of the label to spread over all classes"})

    head_scale: float = field(default=1.0, metadata={"help": "factor for the initial weights of the head"})

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
            "help": "height and width of the images (default: the encoder's image_size); position embeddings are "
            "interpolated"
        },
    )
    center_crop: float | None = field(
        default=None,
        metadata={
            "help": "evaluation resizes the shorter side to resolution / center_crop and crops the centre; null: "
            "resize the whole image, ignoring its aspect ratio"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.center_crop
        self.require(share is None or 0 < share <= 1, "center_crop", "use a share, such as 0.875, or null")
