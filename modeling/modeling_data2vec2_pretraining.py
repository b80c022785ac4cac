"""Pretraining with data2vec 2.0: student, teacher and decoder (arXiv 2212.07525, section 3).

A sample is embedded once and hidden in several ways (views). The student encodes what each view leaves visible, the
decoder fills in the rest, and the teacher, which sees everything, is run once for all views.
"""

from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.utils.generic import can_return_tuple

from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .configuration_objective import ObjectiveConfig
from .decoder import Data2Vec2Decoder
from .ema import Teacher
from .encoder import Data2Vec2Encoder
from .gather import gather, masked_indices, scatter, select_visible
from .initialization import DefaultLinear
from .modeling_data2vec2 import (
    Data2Vec2AudioModel,
    Data2Vec2AudioPreTrainedModel,
    Data2Vec2Model,
    Data2Vec2PreTrainedModel,
    Data2Vec2TextModel,
    Data2Vec2VisionModel,
)
from .modeling_pretraining import Data2VecForPreTrainingOutput, PreTrainingMixin
from .targets import TopKAverage


class PreTrainingOptions(TypedDict, total=False):
    """What all three modalities take by name in pretraining.

    Attributes:
        mask_noise: `(batch, views, time, dim)`, what the decoder reads where `masked`; drawn if not given.
        kept_layers: one bool a block, the prenet's first, False = dropped (LayerDrop); drawn with `config.layerdrop`
            if not given.
        num_items_in_batch: masked positions of the whole effective batch, which divides the loss.
        output_teacher_layers: also return the taps of all blocks.
        output_decoder_states: also return the decoder's input and its output at all positions.
        mask_counts: [`gather.MaskCounts`] of `masked`, so that nothing waits for the device; counted if not given.
    """

    mask_noise: Tensor | None
    kept_layers: list[bool] | None
    num_items_in_batch: Tensor | int | None
    output_teacher_layers: bool
    output_decoder_states: bool
    mask_counts: tuple[int, int, int] | None


class Data2Vec2Teacher(Teacher):
    """The parts of an encoder that the teacher owns, parameters named as in the student's."""

    def __init__(self, config: PreTrainedConfig, model: type[Data2Vec2Model], own_embeddings: bool):
        super().__init__()
        self.embeddings = model.embeddings_class(config) if own_embeddings else None
        self.positions = model.positions_class(config) if model.positions_class is not None else None
        self.encoder = Data2Vec2Encoder(config)


class Data2Vec2ForPreTraining(PreTrainingMixin, Data2Vec2PreTrainedModel):
    """What the three modalities share; a modality names its encoder and its inputs.

    `objective.ema_scope` says what the teacher averages: `"blocks"` (its positions, norm, prenet and extra tokens are
    copied from the student), `"encoder"` (these too, all behind the embeddings) or `"all"`. Except with `"all"` it
    reads the student's embeddings, without gradient and without dropout (the original leaves it on in text).

    Raises:
        ValueError: `config.objective` is invalid or does not fit the encoder.
    """

    base_class: type[Data2Vec2Model]
    ema_scopes = {"blocks": ("encoder.layers.",), "encoder": ("encoder.", "positions."), "all": ("",)}
    head_linear: type[nn.Linear] = DefaultLinear  # in text the original starts the decoder's head like the encoder
    _auto_class = "AutoModelForPreTraining"

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.init_objective()
        objective = self.objective
        assert objective.decoder is not None  # checked above
        self.data2vec2 = self.base_class(config)
        self.decoder = Data2Vec2Decoder(
            objective.decoder, config.hidden_size, config.axes, objective.head_layers, self.head_linear
        )
        self.teacher = Data2Vec2Teacher(config, self.base_class, own_embeddings=objective.ema_scope == "all")
        self.post_init()
        self._keys_to_ignore_on_load_unexpected = []  # an encoder's, which knows no teacher
        self.post_init_teacher()

    @classmethod
    def check_objective(cls, config: PreTrainedConfig, objective: ObjectiveConfig) -> None:
        objective.check_model(config.num_hidden_layers, tuple(cls.ema_scopes))
        decoder, dim = objective.decoder, config.hidden_size
        if objective.views is None or decoder is None:
            name = "views" if objective.views is None else "decoder"
            raise ValueError(f"objective.{name} is missing: data2vec 2.0 needs it, see {cls.__name__}'s default.")
        if dim % decoder.groups:
            raise ValueError(f"objective.decoder.groups = {decoder.groups}: must be a divisor of hidden_size = {dim}.")
        if objective.head_layers == 0:
            raise ValueError("objective.head_layers = 0: must be 1 or more behind a decoder.")
        if objective.cls_loss_weight and config.num_extra_tokens == 0:
            raise ValueError(
                f"objective.cls_loss_weight = {objective.cls_loss_weight}: must be 0 without an extra token, which "
                "predicts, or set num_extra_tokens to 1 or more."
            )

    @torch.no_grad()
    def teacher_tokens(self, inputs: Tensor, tokens: Tensor) -> Tensor:
        """What the teacher reads: `(batch, time, dim)`, of the teacher's dtype, without positions.

        Args:
            inputs: the batch.
            tokens: the student's embedding of it, of everything and without dropout.
        """
        own = self.teacher.embeddings
        tokens = tokens.detach() if own is None else own(inputs)[0]
        return tokens.to(next(self.teacher.parameters()).dtype)

    @torch.no_grad()
    def run_teacher(
        self, tokens: Tensor, grid: tuple[int, ...], real: Tensor | None, keep_layers: bool = False
    ) -> TopKAverage:
        """Targets from the blocks behind the prenet."""
        teacher = self.teacher
        if teacher.positions is not None:
            tokens = tokens + teacher.positions(tokens, grid, real)
        targets = self.targets(real, keep_layers, in_front=self.config.num_extra_tokens)
        teacher.encoder(tokens, real, targets=targets, window=self.objective.teacher_window)
        return targets

    def make_targets(
        self, inputs: Tensor, tokens: Tensor, grid: tuple[int, ...], real: Tensor | None, keep_layers: bool
    ) -> TopKAverage:
        return self.run_teacher(self.teacher_tokens(inputs, tokens), grid, real, keep_layers)

    def encode_visible(
        self,
        tokens: Tensor,
        grid: tuple[int, ...],
        real: Tensor | None,
        visible: Tensor,
        kept_layers: list[bool] | None = None,
        mask_counts: tuple[int, int, int] | None = None,
    ) -> Tensor:
        """The student: what it makes of the tokens that it sees.

        Args:
            tokens: `(batch, time, dim)`, the embedding of everything.
            real: bool `(batch, time)`.
            visible: bool `(batch * views, time)`, the views of a sample in a row.
            mask_counts: [`gather.MaskCounts`]; counted if `None`.

        Returns:
            `(batch * views, extra + kept, dim)`, in order, with filler at the end of rows that keep fewer.
        """
        student, views = self.data2vec2, len(visible) // len(tokens)
        kept = select_visible(visible, mask_counts)
        picked = gather(tokens, kept.where)  # (rows, kept, dim)
        if student.positions is not None:
            seen, seen_real = tokens, real
            if student.positions.depends_on_tokens:  # positions must not tell what is hidden
                seen = tokens.repeat_interleave(views, dim=0).masked_fill(~visible.unsqueeze(-1), 0)
                seen_real = None if real is None else real.repeat_interleave(views, dim=0)
            picked = picked + gather(student.positions(seen, grid, seen_real), kept.where)
        kept_real = kept.real
        if real is not None and self.objective.original_padding:
            padding_seen = real.repeat_interleave(views, dim=0).gather(1, kept.where)  # (rows, kept)
            kept_real = padding_seen if kept_real is None else kept_real & padding_seen
        return student.encoder(picked, kept_real, kept.where, kept_layers).last_hidden_state

    def decoder_input(self, encoded: Tensor, visible: Tensor, removed: Tensor, mask_noise: Tensor | None) -> Tensor:
        """The student's states in their places, noise where it saw nothing: `(rows, time, dim)`.

        Args:
            encoded: `(rows, extra + kept, dim)`.
            visible, removed: bool `(rows, time)`; what is neither (padding) is zero.
            mask_noise: `(rows, time, dim)`, read where removed; N(0, mask_noise_std) if `None`.
        """
        decoder = self.objective.decoder
        assert decoder is not None
        states = F.dropout(encoded[:, self.config.num_extra_tokens :], decoder.input_dropout, self.training)
        shape = (*visible.shape, encoded.shape[-1])
        if mask_noise is None:
            mask_noise = states.new_empty(shape).normal_(0.0, self.objective.mask_noise_std)
        noise = mask_noise.reshape(shape).to(states.dtype) * removed.unsqueeze(-1)
        return scatter(states, visible, noise)

    def _pretrain(
        self,
        inputs: Tensor,
        attention_mask: Tensor | None,
        masked: Tensor | None,
        mask_noise: Tensor | None = None,
        kept_layers: list[bool] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_teacher_layers: bool = False,
        output_decoder_states: bool = False,
        mask_counts: tuple[int, int, int] | None = None,
    ) -> Data2VecForPreTrainingOutput:
        tokens, grid = self.data2vec2.embeddings(inputs)  # (batch, time, dim)
        batch, time = tokens.shape[:2]
        real = self.data2vec2.real_tokens(attention_mask, time)  # bool (batch, time) or None
        if masked is None:
            masked = self.sample_masked(grid, batch, maskable=real).to(tokens.device)
        if masked.dtype != torch.bool or masked.dim() != 3 or (masked.shape[0], masked.shape[2]) != (batch, time):
            raise ValueError(
                f"masked is {masked.dtype} {tuple(masked.shape)}: pass bool (batch, views, time), "
                f"here ({batch}, views, {time})."
            )
        views = masked.shape[1]
        removed = masked.flatten(0, 1)  # (rows, time), what is taken from the student
        padding_counts = self.objective.original_padding
        rows_real = None if real is None or padding_counts else real.repeat_interleave(views, dim=0)
        visible = ~removed if rows_real is None else ~removed & rows_real

        targets = self.make_targets(inputs, tokens, grid, real, output_teacher_layers)
        encoded = self.encode_visible(tokens, grid, real, visible, kept_layers, mask_counts)
        decoder_input = self.decoder_input(encoded, visible, removed, mask_noise)  # (rows, time, dim)
        decoded = self.decoder(decoder_input, grid, rows_real)  # (rows, time, decoder dim)

        extra, indices = self.config.num_extra_tokens, masked_indices(masked, mask_counts)
        output = self.compare(
            self.decoder.projection(decoded.flatten(0, 1).index_select(0, indices)),  # (masked positions, dim)
            targets.result(),
            masked,
            indices,
            real=real,
            num_items_in_batch=num_items_in_batch,
            cls_predictions=encoded[:, extra - 1] if self.objective.cls_loss_weight else None,
        )
        output.last_hidden_state = encoded
        output.teacher_layers = targets.layers
        if output_decoder_states:
            output.decoder_input, output.decoder_output = decoder_input, self.decoder.projection(decoded)
        return output


class Data2Vec2AudioForPreTraining(Data2Vec2AudioPreTrainedModel, Data2Vec2ForPreTraining):
    """data2vec 2.0 in speech (arXiv 2212.07525, section 4.2)."""

    base_class = Data2Vec2AudioModel
    default_objective = Data2Vec2AudioConfig.default_objective

    def num_frames(self, samples: int | Tensor) -> int | Tensor:
        """Frames that the front end makes of so many samples (320 samples a frame at the default strides)."""
        return self.data2vec2.embeddings.num_frames(samples)

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_values: `(batch, samples)` float, 16 kHz, zero mean and unit variance per clip, zeros as padding.
            attention_mask: `(batch, samples)`, 1 = real; `None` if nothing is padded.
            masked: bool `(batch, views, time)`, True = hidden from the student; sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain(input_values, attention_mask, masked, **options)


class Data2Vec2VisionForPreTraining(Data2Vec2ForPreTraining):
    """data2vec 2.0 in vision (arXiv 2212.07525, section 4.1)."""

    config: Data2Vec2VisionConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    base_class = Data2Vec2VisionModel
    default_objective = Data2Vec2VisionConfig.default_objective

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)` float, normalised.
            masked: bool `(batch, views, patches)`, row-major over the patch grid, True = hidden from the student;
                sampled from the objective if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain(pixel_values, None, masked, **options)


class Data2Vec2TextForPreTraining(Data2Vec2ForPreTraining):
    """data2vec 2.0 in language (arXiv 2212.07525, section 4.3). Hidden tokens are dropped: there is no mask token."""

    config: Data2Vec2TextConfig
    main_input_name = "input_ids"
    input_modalities = "text"
    base_class = Data2Vec2TextModel
    default_objective = Data2Vec2TextConfig.default_objective
    head_linear = nn.Linear

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[PreTrainingOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_ids: `(batch, tokens)` long.
            attention_mask: `(batch, tokens)`, 1 = real; `None` if nothing is padded.
            masked: bool `(batch, views, tokens)`, True = hidden from the student; sampled from the objective among
                real tokens if `None`.
            options: see [`PreTrainingOptions`].
        """
        return self._pretrain(input_ids, attention_mask, masked, **options)
