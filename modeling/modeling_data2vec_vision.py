"""data2vec 1 in vision: `transformers`' Data2VecVisionModel as the student, with its teacher and head."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Data2VecVisionConfig, Data2VecVisionModel
from transformers import initialization as init
from transformers.models.data2vec.modeling_data2vec_vision import (
    Data2VecVisionEmbeddings,
    Data2VecVisionLayer,
    Data2VecVisionPreTrainedModel,
    Data2VecVisionRelativePositionBias,
)
from transformers.utils.generic import can_return_tuple

from .decoder import regression_head
from .ema import Teacher
from .gather import scored_indices
from .modeling_pretraining import Data2VecForPreTrainingOutput, PreTrainingMixin
from .targets import BlockFeatures, TopKAverage
from .tokens import Tokens
from .window import window_mask


class Data2VecVisionTeacherLayer(Data2VecVisionLayer):
    """A pre-norm block that returns its four features; "after the residual" and "end of block" are the same here."""

    def forward(
        self, hidden_states: Tensor, relative_position_bias: Tensor | None, resolution: tuple[int, int]
    ) -> BlockFeatures:
        attention = self.attention(
            self.layernorm_before(hidden_states), relative_position_bias=relative_position_bias, resolution=resolution
        )[0]
        attention = attention if self.lambda_1 is None else self.lambda_1 * attention
        hidden_states = hidden_states + attention
        ffn = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        ffn = ffn if self.lambda_2 is None else self.lambda_2 * ffn
        return BlockFeatures(attention, ffn, hidden_states + ffn, hidden_states + ffn)


class Data2VecVisionTeacherEncoder(nn.Module):
    """The averaged blocks with their position bias, parameters named as in the student's."""

    def __init__(self, config: Data2VecVisionConfig, window_size: tuple[int, int]):
        super().__init__()
        self.relative_position_bias = (
            Data2VecVisionRelativePositionBias(config, window_size=window_size)
            if config.use_shared_relative_position_bias
            else None
        )
        own_window = window_size if config.use_relative_position_bias else None
        self.layer = nn.ModuleList(
            [Data2VecVisionTeacherLayer(config, own_window) for _ in range(config.num_hidden_layers)]
        )


class Data2VecVisionTeacher(Teacher):
    def __init__(self, config: Data2VecVisionConfig, window_size: tuple[int, int], own_embeddings: bool):
        super().__init__()
        self.embeddings = Data2VecVisionEmbeddings(config) if own_embeddings else None
        self.encoder = Data2VecVisionTeacherEncoder(config, window_size)
        # no target is taken behind it; kept so that the teacher is a whole encoder
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Data2VecVisionForPreTraining(PreTrainingMixin, Data2VecVisionPreTrainedModel):
    """Student, teacher and head of data2vec 1 in vision (arXiv 2202.03555, section 4.1).

    The teacher averages the blocks with their position bias and reads the student's patch embedding
    (`ema_scope="blocks"`), or averages that too (`"all"`, the published recipe). The CLS token is neither hidden nor
    predicted. Two values of the configuration are set to what pretraining needs: `use_mask_token=True`, and
    `use_mean_pooling=False`, so that the encoder has the final norm that the head reads.

    Raises:
        ValueError: `config.objective` is invalid, or a size is not one number.
    """

    default_objective = {
        "masking": {"method": "beit_block", "ratio": 0.6125, "min_patches": 16},
        "top_k_layers": 6,
        "target_tap": "end_of_block",
        "target_layer_norm": "layer",
        "target_norm": "layer",
        "loss_beta": 2.0,
        "loss_scale": 1 / 768,  # the published loss is a plain mean over the 768 channels
        "ema_decay": 0.9998,
        "ema_end_decay": 0.9998,
        "ema_anneal_steps": 0,
        "ema_scope": "all",
    }
    ema_scopes = {"blocks": ("encoder.", "layernorm."), "all": ("",)}
    teacher: Data2VecVisionTeacher
    _no_split_modules = ["Data2VecVisionLayer", "Data2VecVisionTeacherLayer"]

    def __init__(self, config: Data2VecVisionConfig):
        for name in ("image_size", "patch_size"):  # the stock encoder takes pairs, and fails on its first batch
            if not isinstance(getattr(config, name), int):
                raise ValueError(
                    f"{name} = {getattr(config, name)} is invalid: data2vec-vision reads squares only. "
                    "Use one number, or model_type data2vec2-vision."
                )
        config.use_mask_token = True
        config.use_mean_pooling = False
        super().__init__(config)
        self.init_objective()
        self.data2vec_vision = Data2VecVisionModel(config)
        self.head = regression_head(config.hidden_size, self.objective.head_layers)
        window_size = self.data2vec_vision.embeddings.patch_embeddings.patch_shape
        self.teacher = Data2VecVisionTeacher(config, window_size, own_embeddings=self.objective.ema_scope == "all")
        self.post_init()
        self.post_init_teacher()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Start these at random, as BEiT does: the stock encoder's zeros are slow to learn where a patch is."""
        super()._init_weights(module)
        if module is self:
            embeddings = self.data2vec_vision.embeddings
            for token in (embeddings.cls_token, embeddings.mask_token, embeddings.position_embeddings):
                if token is not None:
                    init.trunc_normal_(token, std=self.config.initializer_range)

    def _position_bias(self, encoder: nn.Module, resolution: tuple[int, int], time: int) -> Tensor | None:
        """The bias that all blocks share, made once per pass: `(1, heads, 1 + time, 1 + time)`."""
        shared = getattr(encoder, "relative_position_bias", None)  # which the stock encoder may lack
        if shared is None:
            return None
        window = tuple(size // self.config.patch_size for size in resolution)
        return shared(window, dim_size=time)

    def _student_blocks(self, hidden: Tensor, resolution: tuple[int, int]) -> Tensor:
        encoder = self.data2vec_vision.encoder
        bias = self._position_bias(encoder, resolution, hidden.shape[1])
        for layer in encoder.layer:
            # by position: checkpointing of the reentrant kind loses the gradient of what is passed by name
            hidden = layer(hidden, False, bias, False, resolution)[0]
        return hidden

    def _add_targets(self, targets: TopKAverage, hidden: Tensor, resolution: tuple[int, int]) -> TopKAverage:
        teacher = self.teacher.encoder
        hidden = hidden.to(self.teacher.layernorm.weight.dtype)
        bias = self._position_bias(teacher, resolution, hidden.shape[1])
        if (window := self.objective.teacher_window) is not None:  # the blocks take it as a bias alone
            allowed = window_mask(hidden.shape[1] - 1, window, 1, None, hidden.device)  # (1, 1, time, time)
            bias = hidden.new_zeros(()) if bias is None else bias
            bias = torch.where(allowed, bias, torch.finfo(bias.dtype).min)
        return self.add_targets(targets, teacher.layer, hidden, relative_position_bias=bias, resolution=resolution)

    @torch.no_grad()
    def make_targets(self, inputs: tuple[Any, ...], tokens: Tokens, keep_layers: bool) -> TopKAverage:
        (pixel_values,) = inputs
        resolution = (pixel_values.shape[2], pixel_values.shape[3])
        own = self.teacher.embeddings
        if own is None:
            unmasked = _add_cls(self.data2vec_vision.embeddings, tokens.values.detach(), resolution)
        else:
            unmasked = _add_cls(own, own.patch_embeddings(pixel_values)[0], resolution)
        return self._add_targets(self.targets(tokens.real, keep_layers, in_front=1), unmasked, resolution)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        masked: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_teacher_layers: bool = False,
        mask_counts: tuple[int, int, int] | None = None,
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            pixel_values: `(batch, channels, height, width)` float, normalised.
            masked: bool `(batch, patches)`, row-major over the patch grid, True = hidden from the student; sampled
                from the objective if `None`.
            num_items_in_batch: masked positions of the whole effective batch, which divides the loss.
            output_teacher_layers: also return the taps of all blocks, `(batch, patches, dim)` each.
            mask_counts: [`gather.MaskCounts`] of `masked`, so that nothing waits for the device.
        """
        embeddings: Data2VecVisionEmbeddings = self.data2vec_vision.embeddings
        resolution: tuple[int, int] = (pixel_values.shape[2], pixel_values.shape[3])
        patches, grid = embeddings.patch_embeddings(pixel_values)  # (batch, patches, dim), (height, width) in patches
        if masked is None:
            masked = self.sample_masked(grid, len(patches)).to(patches.device)

        tokens = Tokens(patches, grid)
        targets = self.make_targets((pixel_values,), tokens, output_teacher_layers)

        hidden = torch.where(masked.unsqueeze(-1), embeddings.mask_token.to(patches.dtype), patches)
        hidden = embeddings.dropout(_add_cls(embeddings, hidden, resolution))  # (batch, 1 + patches, dim)
        hidden = self.data2vec_vision.layernorm(self._student_blocks(hidden, resolution))

        indices = scored_indices(masked, mask_counts)
        rows = indices + indices // masked.shape[1] + 1  # of the hidden states, each sample with CLS in front
        predictions = self.head(hidden.flatten(0, 1).index_select(0, rows))  # (masked positions, dim)
        all_targets = targets.result()
        terms = [self.regression_term(predictions, all_targets, masked, indices)]
        output = self.compare(terms, all_targets, masked, tokens, num_items_in_batch)
        output.last_hidden_state = hidden
        output.teacher_layers = targets.layers
        return output


def _add_cls(embeddings: Data2VecVisionEmbeddings, patches: Tensor, resolution: tuple[int, int]) -> Tensor:
    """CLS in front and absolute positions where the encoder has them: `(batch, 1 + patches, dim)`."""
    hidden = torch.cat((embeddings.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches), dim=1)
    if embeddings.position_embeddings is not None:
        hidden = hidden + embeddings.interpolate_pos_encoding(hidden, *resolution)
    return hidden
