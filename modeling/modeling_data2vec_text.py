"""data2vec 1 in language: `transformers`' Data2VecTextModel as the student, with its teacher and head."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Data2VecTextConfig, Data2VecTextModel
from transformers.models.data2vec.modeling_data2vec_text import (
    Data2VecTextEmbeddings,
    Data2VecTextLayer,
    Data2VecTextPreTrainedModel,
)
from transformers.utils.generic import can_return_tuple

from .decoder import regression_head
from .ema import Teacher
from .gather import scored_indices
from .modeling_pretraining import Data2VecForPreTrainingOutput, PreTrainingMixin
from .ranges import require_indices
from .recompute import recompute_activation, recompute_in
from .targets import BlockFeatures, TopKAverage
from .tokens import Tokens
from .window import attention_mask_of


class RecomputingTextLayer(Data2VecTextLayer):
    """A block of the student that keeps less for the gradient, see [`recompute.recompute_activation`]."""

    def feed_forward_chunk(self, attention_output: Tensor) -> Tensor:
        activation, wide = self.intermediate.intermediate_act_fn, self.intermediate.dense(attention_output)
        with recompute_activation(activation, wide, enabled=not self.gradient_checkpointing) as activated:
            narrow = self.output.dense(activated)
        return self.output.LayerNorm(self.output.dropout(narrow) + attention_output)


class Data2VecTextTeacherLayer(Data2VecTextLayer):
    """A block that returns its four features."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> BlockFeatures:
        after = self.attention.output
        attention = after.dropout(after.dense(self.attention.self(hidden_states, attention_mask=attention_mask)[0]))
        hidden_states = after.LayerNorm(hidden_states + attention)
        ffn = self.output.dropout(self.output.dense(self.intermediate(hidden_states)))
        residual = hidden_states + ffn
        return BlockFeatures(attention, ffn, residual, self.output.LayerNorm(residual))


class Data2VecTextTeacherEncoder(nn.Module):
    """The blocks, parameters named as in the student's."""

    def __init__(self, config: Data2VecTextConfig):
        super().__init__()
        self.layer = nn.ModuleList([Data2VecTextTeacherLayer(config) for _ in range(config.num_hidden_layers)])


class Data2VecTextTeacher(Teacher):
    def __init__(self, config: Data2VecTextConfig):
        super().__init__()
        self.embeddings = Data2VecTextEmbeddings(config)
        self.encoder = Data2VecTextTeacherEncoder(config)


class Data2VecTextForPreTraining(PreTrainingMixin, Data2VecTextPreTrainedModel):
    """Student, teacher and head of data2vec 1 in language (arXiv 2202.03555, section 4.3).

    The teacher sees the whole sequence, as the paper describes (the original code fed it the masked positions alone).
    It averages the blocks; its embeddings are copied from the student (`ema_scope="blocks"`) or averaged as well
    (`"all"`). The student reads `config.mask_token_id` at masked positions; unless set, it is the last id of the
    vocabulary, as in RoBERTa.

    Raises:
        ValueError: `config.objective` is invalid, or `config.mask_token_id` is not in the vocabulary.
    """

    default_objective = {
        "masking": {"method": "token", "prob": 0.35, "length": 4},
        "top_k_layers": 10,
        "target_layer_norm": "layer",
        "loss_beta": 4.0,
        "loss_scale": 1.0,
        "head_layers": 2,
        "ema_decay": 0.999,
        "ema_end_decay": 0.9999,
        "ema_anneal_steps": 300_000,
    }
    config_fields = ("mask_token_id",)
    ema_scopes = {"blocks": ("encoder.",), "all": ("",)}
    teacher: Data2VecTextTeacher
    _no_split_modules = ["RecomputingTextLayer", "Data2VecTextTeacherLayer"]

    def __init__(self, config: Data2VecTextConfig):
        super().__init__(config)
        if getattr(config, "mask_token_id", None) is None:
            config.mask_token_id = config.vocab_size - 1
        if not 0 <= config.mask_token_id < config.vocab_size:
            raise ValueError(
                f"mask_token_id = {config.mask_token_id} is not in the vocabulary of {config.vocab_size}: use the "
                "tokenizer's mask_token_id and a vocab_size that covers it."
            )
        self.init_objective()
        self.data2vec_text = Data2VecTextModel(config, add_pooling_layer=False)
        recompute_in(self, {Data2VecTextLayer: RecomputingTextLayer})
        self.head = regression_head(config.hidden_size, self.objective.head_layers)
        self.teacher = Data2VecTextTeacher(config)
        self.post_init()
        self.post_init_teacher()

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        if new_num_tokens is not None and new_num_tokens <= (mask := self.config.mask_token_id):
            raise ValueError(
                f"new_num_tokens = {new_num_tokens} leaves out mask_token_id = {mask}, which pretraining needs: use "
                f"{mask + 1} or more, or set config.mask_token_id to a token that stays."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def _add_targets(self, targets: TopKAverage, hidden: Tensor, real: Tensor | None) -> TopKAverage:
        teacher = self.teacher.encoder
        mask = attention_mask_of(self.config, hidden, real, self.objective.teacher_window)
        return self.add_targets(targets, teacher.layer, hidden, attention_mask=mask)

    @torch.no_grad()
    def make_targets(self, inputs: tuple[Any, ...], tokens: Tokens, keep_layers: bool) -> TopKAverage:
        embedded = _embed(self.teacher.embeddings, tokens.values)
        return self._add_targets(self.targets(tokens.real, keep_layers), embedded, tokens.real)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        student_input_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_teacher_layers: bool = False,
        mask_counts: tuple[int, int, int] | None = None,
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_ids: `(batch, tokens)` long, the whole sequence, which the teacher reads.
            attention_mask: `(batch, tokens)`, 1 = real; `None` if nothing is padded.
            masked: bool `(batch, tokens)`, True where the student reads the mask token instead; sampled from the
                objective among real tokens if `None`.
            student_input_ids: `(batch, tokens)` long, where the student shall read other ids at positions that are not
                masked (BERT's random tokens); `input_ids` if `None`.
            num_items_in_batch: masked positions of the whole effective batch, which divides the loss.
            output_teacher_layers: also return the taps of all blocks.
            mask_counts: [`gather.MaskCounts`] of `masked`, so that nothing waits for the device.
        """
        embeddings = self.data2vec_text.embeddings
        real = None if attention_mask is None else attention_mask.bool()
        if masked is None:
            masked = self.sample_masked(input_ids.shape[1:], len(input_ids), maskable=real).to(input_ids.device)
        if student_input_ids is None:
            student_input_ids = input_ids

        tokens = Tokens(input_ids, tuple(input_ids.shape[1:]), real)
        targets = self.make_targets((input_ids,), tokens, output_teacher_layers)

        hidden = _embed(embeddings, student_input_ids.masked_fill(masked, self.config.mask_token_id))
        hidden = embeddings.dropout(hidden)  # (batch, tokens, dim)
        block_mask = attention_mask_of(self.config, hidden, real)
        for layer in self.data2vec_text.encoder.layer:
            hidden = layer(hidden, block_mask)

        indices = scored_indices(masked, mask_counts)
        predictions = self.head(hidden.flatten(0, 1).index_select(0, indices))  # (masked positions, dim)
        all_targets = targets.result()
        terms = [self.regression_term(predictions, all_targets, masked, indices)]
        with torch.no_grad():
            unmasked = tokens._replace(values=_embed(embeddings, input_ids))
        output = self.compare(terms, all_targets, masked, unmasked, num_items_in_batch)
        output.last_hidden_state = hidden
        output.teacher_layers = targets.layers
        return output


def _embed(embeddings: Data2VecTextEmbeddings, input_ids: Tensor) -> Tensor:
    """Token, position and (first) type embedding and their norm, without dropout: `(batch, tokens, dim)`."""
    require_indices("input_ids", input_ids, embeddings.word_embeddings.num_embeddings)
    positions = embeddings.create_position_ids_from_input_ids(input_ids, embeddings.padding_idx)
    hidden = embeddings.word_embeddings(input_ids) + embeddings.position_embeddings(positions)
    return embeddings.LayerNorm(hidden + embeddings.token_type_embeddings.weight[0])
