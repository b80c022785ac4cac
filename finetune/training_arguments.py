"""`FineTuneArguments`: transformers' `TrainingArguments` and what the papers' fine-tuning needs besides."""

from dataclasses import dataclass, field

from ..pretraining.shared_arguments import SharedArguments


@dataclass(repr=False)  # that of `TrainingArguments` shows no token
class FineTuneArguments(SharedArguments):
    """The `training` section of a recipe; any field of `TrainingArguments` works.

    Raises:
        ValueError: an invalid value; the message names the field and the fix.
    """

    layer_decay: float = field(
        default=1.0, metadata={"help": "learning rate of a block, relative to the block above it; 1 is off"}
    )
    layer_decay_embeddings: bool = field(
        default=True, metadata={"help": "false: the layers before the blocks learn at the full rate"}
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "peak learning rate outside the encoder (default: learning_rate)"}
    )
    freeze_encoder_steps: int = field(
        default=0, metadata={"help": "train only the head for this many updates at the start"}
    )
    freeze_feature_encoder: bool = field(
        default=False, metadata={"help": "never train the convolutional front end of a speech encoder"}
    )
    weights_ema_decay: float | None = field(
        default=None,
        metadata={"help": "evaluate and save a moving average of the weights, with this decay per update"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        rate, average = self.head_learning_rate, self.weights_ema_decay
        checks = {
            "layer_decay": (0 < self.layer_decay <= 1, "above 0 to 1 (off)"),
            "head_learning_rate": (rate is None or rate > 0, "a positive number"),
            "weights_ema_decay": (average is None or 0 < average < 1, "between 0 and 1, or null (off)"),
        }
        for name, (holds, words) in checks.items():
            if not holds:
                raise ValueError(f"training.{name} = {getattr(self, name)!r} is invalid: it must be {words}.")
        if average is not None and (self.fsdp or self.deepspeed):
            raise ValueError(
                f"training.weights_ema_decay = {average} does not work with fsdp or deepspeed, whose weights are in "
                "parts: leave one of them out."
            )
