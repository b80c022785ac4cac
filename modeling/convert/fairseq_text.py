"""fairseq's checkpoints of data2vec 1 in language: `transformers`' encoder, and RoBERTa's classifier around it."""

from functools import partial
from typing import Any

import torch
from transformers import (
    Data2VecTextConfig,
    Data2VecTextForSequenceClassification,
    Data2VecTextModel,
    PreTrainedConfig,
)

from ..configuration_objective import ObjectiveConfig
from ..modeling_data2vec_text import Data2VecTextForPreTraining
from . import original
from .keys import Rows, under
from .original import Fields, number, optional_part, part_of, read_fields, write_fields
from .source import Configured, Source, Tensors, Tuned, Values


ENCODER: Fields = [
    ("embed_dim", "hidden_size"),
    ("layers", "num_hidden_layers"),
    ("attention_heads", "num_attention_heads"),
    ("ffn_embed_dim", "intermediate_size"),
]
DROPOUT: Fields = [
    ("dropout", "hidden_dropout_prob", 0.1),
    ("attention_dropout", "attention_probs_dropout_prob", 0.1),
]
MASKS: Fields = [
    ("mask_prob", "prob"),
    ("mask_multiple_length", "length", 1),
    ("leave_unmasked_prob", "keep_prob", 0.1),
    ("random_token_prob", "random_prob", 0.1),
]
BLOCKS = {"normalize_before": False, "learned_pos": True}
EMBEDDINGS = {"layernorm_embedding": True, "no_scale_embedding": True}

ENCODER_ROWS: Rows = [
    ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
    ("embed_positions.weight", "embeddings.position_embeddings.weight"),
    ("layernorm_embedding.", "embeddings.LayerNorm."),
    *under(
        "layers.{n}.",
        "encoder.layer.{n}.",
        [
            ("self_attn.q_proj.", "attention.self.query."),
            ("self_attn.k_proj.", "attention.self.key."),
            ("self_attn.v_proj.", "attention.self.value."),
            ("self_attn.out_proj.", "attention.output.dense."),
            ("self_attn_layer_norm.", "attention.output.LayerNorm."),
            ("fc1.", "intermediate.dense."),
            ("fc2.", "output.dense."),
            ("final_layer_norm.", "output.LayerNorm."),
        ],
    ),
]
ROWS: Rows = [
    *under("encoder.sentence_encoder.", "data2vec_text.", ENCODER_ROWS),
    *under("encoder._ema.", "teacher.", ENCODER_ROWS),
    ("encoder.regression_head.{n}.", "head.{n}."),
]
HEAD: Rows = [
    ("classification_heads.{name}.dense.", "classifier.dense."),
    ("classification_heads.{name}.out_proj.", "classifier.out_proj."),
]


def encoder(m: Values, tensors: Tensors) -> tuple[Values, list[str]]:
    nested = "transformer" in m  # RoBERTa's, in fine-tuning, is flat
    t = part_of(m, "transformer") if nested else m
    section = "model.transformer" if nested else "model"
    blocks = {n.removeprefix("encoder_"): v for n, v in m.items() if n.startswith("encoder_")}
    blocks = part_of(t, "encoder", section) if nested else blocks
    original.refuse_unless(blocks, BLOCKS, "no recipe uses it", f"{section}.encoder")
    switches = EMBEDDINGS | {"no_token_positional_embeddings": False}
    original.refuse_unless(t, switches, "transformers' encoder has no such switch", section)
    original.refuse_unless(t, {"activation_fn": "gelu", "adaptive_input": False}, "no recipe uses it", section)
    rates = [(name, number(of, name, section, 0)) for of, name in ((t, "activation_dropout"), (blocks, "layerdrop"))]
    notes = [f"{name} = {rate} is left out: transformers' text encoder has none." for name, rate in rates if rate]
    stem = "encoder.sentence_encoder.embed_"
    return {
        "vocab_size": original.rows_of(tensors, f"{stem}tokens.weight"),
        "max_position_embeddings": original.rows_of(tensors, f"{stem}positions.weight"),
        **read_fields(blocks, ENCODER, f"{section}.encoder"),
        **read_fields(t, DROPOUT, section),
        "type_vocab_size": 1,  # the original has none: its one row is zero
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }, notes


def config(cfg: Values, tensors: Tensors) -> Configured:
    m, task = cfg["model"], optional_part(cfg, "task")
    original.refuse_unless(task, {"mask_whole_words": False, "mask_stdev": 0}, "no recipe uses it", "task")
    masking = read_fields(task, MASKS, "task")
    objective = original.read_objective(m) | {
        "masking": {"method": "token"} | masking | {"length": max(1, masking["length"])},
        "head_layers": number(m, "head_layers", default=1),
        "ema_scope": "blocks" if m.get("ema_transformer_layers_only", True) else "all",
    }
    fields, notes = encoder(m, tensors)
    return Data2VecTextConfig(**fields | {"objective": objective}), notes


def classification_config(cfg: Values, tensors: Tensors) -> Configured:
    fields, notes = encoder(cfg["model"], tensors)
    return Data2VecTextConfig(**fields, **original.text_head(cfg["model"], tensors)), notes


def to_cfg(config: PreTrainedConfig, objective: ObjectiveConfig) -> Values:
    positions = config.max_position_embeddings - config.pad_token_id - 1
    blocks = write_fields(config, ENCODER) | BLOCKS | {"layerdrop": 0.0}
    transformer = write_fields(config, DROPOUT) | EMBEDDINGS | {"activation_fn": "gelu", "activation_dropout": 0.0}
    transformer |= {"encoder": blocks, "max_source_positions": positions}
    model = original.write_objective(objective) | {
        "_name": "data2vec_text",
        "max_positions": positions,
        "head_layers": objective.head_layers,
        "transformer": transformer,
        "ema_transformer_layers_only": objective.ema_scope == "blocks",
    }
    if objective.loss_scale is None:  # for the original, a number below 0 stands for 1/sqrt(dim)
        model["loss_scale"] = -1.0
    return {"model": model, "task": text_task(positions) | write_fields(objective.masking.to_dict(), MASKS)}


def text_task(positions: int) -> Values:
    task: Values = {"_name": "masked_lm", "data": "none", "tokens_per_sample": positions}
    return task | {"include_target_tokens": True, "include_index": True}


def fixed(config: Any, tuned: bool) -> Tensors:
    names = ["encoder.sentence_encoder.version"] + ([] if tuned else ["encoder._ema.version"])
    return dict.fromkeys(names, torch.tensor([3.0]))


def is_source(name: str, section: Values, tensors: Tensors) -> bool:
    roberta = name in ("roberta", "roberta_base", "roberta_large")
    return name == "data2vec_text" or (roberta and any(n.startswith("classification_heads.") for n in tensors))


TEXT = Source(
    words="data2vec 1 in language",
    arxiv="2202.03555",
    is_source=is_source,
    is_ours=lambda config: config.model_type == "data2vec-text",
    student="data2vec_text.",
    rows=ROWS,
    encoder=partial(Data2VecTextModel, add_pooling_layer=False),
    pretrained=Data2VecTextForPreTraining,
    config=config,
    tuned=Tuned(Data2VecTextForSequenceClassification, classification_config, "", HEAD),
    older=(
        (r"^decoder\.", "encoder."),
        (r"^((_ema\.)?)module\.", r"\1"),
        (r"\.emb_layer_norm\.", ".layernorm_embedding."),
        (r"^encoder\.lm_head\.(\d)", r"encoder.regression_head.\1"),
    ),
    fixed=fixed,
    to_cfg=to_cfg,
    teacher="encoder._ema.",
    epsilon=1e-5,
)
