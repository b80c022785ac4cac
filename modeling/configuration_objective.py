"""The numbers of the data2vec objective: one strict dataclass, stored as `config.objective` beside the weights.

All methods share it; one that needs more numbers subclasses it (`objective_class` of its configuration). A stock
`transformers` config keeps it as an unknown key, so a folder that carries it still opens without this package.
"""

import difflib
import math
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig

from .configuration_decoder import DecoderConfig, decoder_from_dict
from .masking import AdaptiveMasking, Masking, masking_from_dict
from .ranges import require
from .target_kinds import TARGET_KINDS, LayersTarget


TargetTap = Literal["ffn", "ffn_residual", "end_of_block", "self_attention"]
TargetNorm = Literal["instance", "layer", "batch", "group"]
ClsPooling = Literal["last_token", "tokens", "mean"]
EmaScope = Literal["blocks", "encoder", "all", "frozen"]
Target = Literal["layers", "input", "same_view", "other_model"]


@strict
@dataclass(kw_only=True)
class EmaSchedule:
    """How fast the teacher follows.

    Args:
        ema_decay, ema_end_decay, ema_anneal_steps: the decay rises linearly from the first to the second over that
            many updates, then stays (data2vec, section 3.3).
        ema_delay (`int`): updates by which the teacher starts late (Point2Vec: 1). Above 0 it is a copy of the student
            up to and with update `ema_delay + 1`, and the decay is that of `ema_delay` updates before.

    Raises:
        ValueError: a value of the wrong type or outside its range; the message names the field.
    """

    ema_decay: float | int = 0.999
    ema_end_decay: float | int = 0.9999
    ema_anneal_steps: int = 30_000
    ema_delay: int = 0

    def validate_schedule(self) -> None:
        checks = {
            "ema_decay": (0 <= self.ema_decay <= 1, "between 0 and 1"),
            "ema_end_decay": (self.ema_decay <= self.ema_end_decay <= 1, "between ema_decay and 1"),
            "ema_anneal_steps": (self.ema_anneal_steps >= 0, "0 or more updates"),
            "ema_delay": (self.ema_delay >= 0, "0 or more updates"),
        }
        require("objective.", self, checks)

    def decay_at(self, step: int) -> float:
        """Decay of the teacher's move after update `step` (1-based), linear up to `ema_anneal_steps`; 0 is a copy."""
        step -= self.ema_delay
        if self.ema_delay and step <= 1:
            return 0.0
        if step >= self.ema_anneal_steps:
            return float(self.ema_end_decay)
        return self.ema_decay + (self.ema_end_decay - self.ema_decay) * step / self.ema_anneal_steps

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def parsed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What a file holds, as the fields hold it."""
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a plain dict; an unknown key is a ValueError that names the nearest known one."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(known)}."
                raise ValueError(f"objective.{key} is not a field of the objective: {hint}")
        try:
            return cls(**cls.parsed(values))
        except StrictDataclassError as error:
            # the cause of a failed cross-field check is our own message; of a type check, the library's
            raise ValueError(f"objective: {error.__cause__ or error}") from error


@strict
@dataclass(kw_only=True)
class ObjectiveConfig(EmaSchedule):
    """What the student predicts, how far off it is, how the teacher follows and what is hidden.

    Args:
        masking ([`Masking`]): what is hidden; `{"method": ..., **numbers}` in a file, one of [`masking.MASKINGS`].
        views (`int`, *optional*): masked views per sample and teacher pass (data2vec 2.0, section 3.3); `None` is one
            mask per sample, without an axis of views (data2vec 1, Point2Vec).
        target (`str`): what is predicted: `"layers"`, what blocks of the teacher, which reads everything, make of what
            is hidden (data2vec); `"input"`, what is hidden itself: normalised pixels of a patch (MAE), a token (BERT),
            without any teacher; `"same_view"`, what a frozen teacher makes of what the student reads, extra tokens
            included (feature distillation); `"other_model"`, what blocks of `teacher` make of what is hidden.
        teacher (`str`, *optional*): folder, or name on the Hub, of any encoder that `AutoModel` opens and that cuts
            its input into the same patches or frames, wav2vec 2.0 or DINO for example; of any width and depth. A
            recipe that names one and no `target` gets `"other_model"` and what that needs of the other fields.
        teacher_config (`dict`, *optional*): its configuration, read from there when a run starts.
        top_k_layers (`int`): K, the number of top blocks whose features are averaged (data2vec, section 3.3).
        target_layers (`list[int]`, *optional*): numbers of the blocks, from 0, to average in place of the top K.
        target_tap (`str`): where a block's feature is taken: `"ffn"` (FFN output before the residual; the paper's
            default), `"ffn_residual"` (after the residual, before the final norm), `"end_of_block"`,
            `"self_attention"` (before the residual); data2vec, table 5.
        target_layer_norm (`str`, *optional*): normalisation of each layer's feature before averaging: `"instance"`
            (over time, per sample and channel), `"layer"` (over channels), `"batch"` (over samples and time),
            `"group"` (over time and channels, per sample).
        target_norm (`str`, *optional*): normalisation of the average, same choices.
        teacher_window (`int`, *optional*): in every block of the teacher a token attends to tokens at most so many
            positions away, `2 * teacher_window + 1` in all, 0 is itself alone; `None` is everything (data2vec,
            section 5.4). Positions are those of the sequence: frames, patches row by row, tokens. What a feature
            depends on grows with depth, to `teacher_window` times its block; convolutions in front of the blocks (the
            front end and the positions of speech) reach further. The student is not restricted. See
            [`window.window_mask`] for extra tokens and padding.
        original_padding (`bool`): let padding act as in the original: it takes part in those statistics and leaks
            through stacked convolutions (positions of speech, decoders; in 2.0 the student's tokens hold it too).
            Off: a padded row is the same as the row alone.
        loss_beta (`float`): 0 is the squared error, above 0 the Smooth-L1 threshold (data2vec, equation 4).
        loss_scale (`float`, *optional*): factor of the loss summed over channels; `None` is 1/sqrt(dim) for layers
            of a teacher, and 1/dim, a mean, for the other targets.
        regression_weight (`float`): weight of the loss at scored positions, a mean over them.
        cls_loss_weight (`float`): weight of the loss of one prediction for the whole sample (CLS, utterance) against
            the mean of its targets, a mean over samples (data2vec 2.0; EAT, section 3.3; emotion2vec). The original's
            number is smaller by the samples of a process times `views`: 2.56 = 0.01 * 16 * 16 for images.
        cls_pooling (`str`): what predicts for the whole sample: `"last_token"`, the student's last extra token
            (data2vec 2.0, EAT), `"tokens"`, the mean of all extra tokens (emotion2vec's chunk embedding), or `"mean"`,
            the mean of what the student made of the tokens that it saw (emotion2vec's global embedding).
        head_layers (`int`): linear layers between student and prediction, in 2.0 between decoder and prediction:
            0 none, 1 linear, n > 1 with GELU in between and twice the width inside.
        decoder ([`DecoderConfig`], *optional*): what fills in what the student did not see; `{"method": ...,
            **numbers}` in a file, one of [`configuration_decoder.DECODER_CONFIGS`], `"conv"` if it names none
            (data2vec 2.0, section 3.2). Hidden tokens are then dropped. `None`: hidden tokens are replaced in place by
            a mask token, and the encoder's output is what predicts (data2vec 1).
        mask_noise_std (`float`): standard deviation of what a convolutional decoder reads at hidden positions.
        ema_decay, ema_end_decay, ema_anneal_steps, ema_delay: see [`EmaSchedule`].
        ema_scope (`str`): what the teacher averages: `"blocks"`, `"encoder"` (blocks and positions, not the
            convolutional front end) or `"all"`. What is outside is the student's own. `"frozen"`: the teacher has
            everything of its own, and never moves.

    Raises:
        ValueError: a value of the wrong type or outside its range; the message names the field.
    """

    masking: Masking
    views: int | None = None
    target: Target = "layers"
    teacher: str | None = None
    teacher_config: dict | None = None  # without types inside, so that the library can check it
    top_k_layers: int = 8
    target_layers: list[int] | None = None
    target_tap: TargetTap = "ffn"
    target_layer_norm: TargetNorm | None = "instance"
    target_norm: TargetNorm | None = None
    teacher_window: int | None = None
    original_padding: bool = False
    loss_beta: float | int = 0.0
    loss_scale: float | int | None = None
    regression_weight: float | int = 1.0
    cls_loss_weight: float | int = 0.0
    cls_pooling: ClsPooling = "last_token"
    head_layers: int = 1
    decoder: DecoderConfig | None = None
    mask_noise_std: float | int = 0.01
    ema_scope: EmaScope = "blocks"

    def validate_ranges(self) -> None:
        checks = {
            "views": (self.views is None or self.views >= 1, "1 or more, or null for one mask per sample"),
            "top_k_layers": (self.top_k_layers >= 1, "1 to the number of blocks"),
            "target_layers": (
                self.target_layers is None
                or (len(self.target_layers) == len(set(self.target_layers)) > 0 and min(self.target_layers) >= 0),
                "numbers of blocks, from 0, each once, or null for the top top_k_layers",
            ),
            "teacher_window": (
                self.teacher_window is None or self.teacher_window >= 0,
                "the distance that a token attends to, 0 or more, or null for everything",
            ),
            "loss_beta": (0 <= self.loss_beta < math.inf, "0 for the squared error, or a positive threshold"),
            "loss_scale": (self.loss_scale is None or 0 < self.loss_scale < math.inf, "a positive number or null"),
            "regression_weight": (0 <= self.regression_weight < math.inf, "a number of 0 or more"),
            "cls_loss_weight": (0 <= self.cls_loss_weight < math.inf, "a number of 0 or more"),
            "mask_noise_std": (0 <= self.mask_noise_std < math.inf, "a number of 0 or more"),
            "head_layers": (self.head_layers >= 0, "0 or more"),
        }
        require("objective.", self, checks)

    def check_model(self, num_hidden_layers: int, scopes: tuple[str, ...], chooses_masks: bool = False) -> None:
        """Raise a ValueError where the objective does not fit an encoder of `num_hidden_layers` blocks.

        `scopes` are the values of `ema_scope` that the model offers; `chooses_masks`: see `masking_adaptive`.
        """
        if isinstance(self.masking, AdaptiveMasking) and not (chooses_masks and self.kind.has_decoder):
            raise ValueError(
                f"objective.masking.method = {self.masking.method!r}: this model, with objective.target = "
                f"{self.target!r}, does not choose its masks; use those of objective.masking.of."
            )
        if self.masking.reads_attention and not self.kind.has_teacher:
            raise ValueError(
                f"objective.masking.method = {self.masking.method!r}: must be another one with objective.target = "
                f"{self.target!r}, which has no teacher."
            )
        if self.ema_scope not in scopes:
            raise ValueError(f"objective.ema_scope = {self.ema_scope!r}: must be one of {scopes}.")
        self.kind.check(self)
        if self.teacher is not None and self.target != "other_model":
            raise ValueError(
                f"objective.target = {self.target!r}: must be 'other_model' with objective.teacher = {self.teacher!r}."
            )
        blocks = self.kind.blocks(self, num_hidden_layers)
        if self.top_k_layers > blocks:
            raise ValueError(
                f"objective.top_k_layers = {self.top_k_layers} is more than the encoder's num_hidden_layers = "
                f"{blocks}: use {blocks} or less, or a deeper encoder."
            )
        if max(self.target_layers or [0]) >= blocks:
            raise ValueError(
                f"objective.target_layers = {self.target_layers}: must be from 0 to {blocks - 1}, the encoder's "
                "blocks."
            )

    def averaged_layers(self, blocks: int) -> tuple[int, ...]:
        """Numbers of the blocks, of so many, whose features are averaged.

        Raises:
            ValueError: there are fewer blocks than K.
        """
        if self.target_layers is not None:
            return tuple(self.target_layers)
        if blocks < self.top_k_layers:
            raise ValueError(f"objective.top_k_layers = {self.top_k_layers}, but there are {blocks} layers.")
        return tuple(range(blocks - self.top_k_layers, blocks))

    def draw_masks(
        self,
        grid: tuple[int, ...],
        seeds: Tensor,
        lengths: Tensor | None = None,
        maskable: Tensor | None = None,
        coordinates: Tensor | None = None,
    ) -> Tensor:
        """Bool `(batch, time)`, or with `views` `(batch, views, time)`; arguments as of [`Masking.sample`]."""
        masked = self.masking.sample(grid, seeds, lengths, maskable, coordinates)  # (batch, views, time)
        return masked.squeeze(1) if self.views is None else masked

    @property
    def kind(self) -> LayersTarget:
        """All that depends on `target`."""
        return TARGET_KINDS[self.target]

    @property
    def drops_hidden(self) -> bool:
        """Whether the student reads visible tokens alone; else all, hidden ones replaced."""
        return self.decoder is not None and self.decoder.drops_hidden

    def scored_positions(self, masked: Tensor, real: Tensor | None) -> Tensor:
        """Where the loss is taken, bool as `masked`, unless something else is said: what is hidden or, with a teacher
        of the same view, what the student reads.

        Args:
            masked: bool `(batch, time)` or `(batch, views, time)`.
            real: bool `(batch, time)`, `None` where nothing is padded.
        """
        return self.kind.scored(masked, real, self.drops_hidden)

    def scale_for(self, dim: int) -> float:
        return self.kind.scale(dim) if self.loss_scale is None else float(self.loss_scale)

    def to_dict(self) -> dict[str, Any]:
        decoder = None if self.decoder is None else self.decoder.to_dict()
        return super().to_dict() | {"masking": self.masking.to_dict(), "decoder": decoder}

    @classmethod
    def parsed(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "masking" not in values:
            raise ValueError('objective.masking is missing: give {"method": ..., ...}.')
        decoder = None if values.get("decoder") is None else decoder_from_dict(values["decoder"])
        return values | {"masking": masking_from_dict(values["masking"]), "decoder": decoder}


def objective_class_of(config: PreTrainedConfig | type[PreTrainedConfig]) -> type[ObjectiveConfig]:
    """What `config.objective` is read as: a method's own class, where its configuration names one."""
    return getattr(config, "objective_class", ObjectiveConfig)
