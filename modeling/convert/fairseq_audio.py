"""fairseq's checkpoints of data2vec 1 in speech: `transformers`' encoder, and its recogniser with CTC."""

from typing import Any

from transformers import Data2VecAudioConfig, Data2VecAudioForCTC, Data2VecAudioModel, PreTrainedConfig

from ..configuration_objective import ObjectiveConfig
from ..modeling_data2vec_audio import Data2VecAudioForPreTraining
from . import original
from .keys import Rows, under
from .original import Fields, number, part_of, read_fields, write_fields
from .source import Configured, Source, Tensors, Tuned, Values


ENCODER: Fields = [
    ("encoder_embed_dim", "hidden_size"),
    ("encoder_layers", "num_hidden_layers"),
    ("encoder_attention_heads", "num_attention_heads"),
    ("encoder_ffn_embed_dim", "intermediate_size"),
    ("conv_bias", "conv_bias", False),
    ("pos_conv_depth", "num_conv_pos_embeddings", 1),
    ("conv_pos_groups", "num_conv_pos_embedding_groups"),
    ("dropout", "hidden_dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.0),
    ("dropout_input", "feat_proj_dropout", 0.0),
    ("encoder_layerdrop", "layerdrop", 0.0),
]
SWITCHES = {"layer_norm_first": False, "layer_type": "transformer", "activation_fn": "gelu"}
MASKS = {"mask_selection": "static", "no_mask_overlap": False, "mask_channel_prob": 0, "mask_dropout": 0}

ENCODER_ROWS: Rows = [
    ("pos_conv.{n}.0.", "pos_conv_embed.layers.{n}.conv."),
    ("layer_norm.", "layer_norm."),
    *under("layers.{n}.self_attn.", "layers.{n}.attention.", [(f"{x}_proj.",) * 2 for x in ("k", "v", "q", "out")]),
    ("layers.{n}.self_attn_layer_norm.", "layers.{n}.layer_norm."),
    ("layers.{n}.fc1.", "layers.{n}.feed_forward.intermediate_dense."),
    ("layers.{n}.fc2.", "layers.{n}.feed_forward.output_dense."),
    ("layers.{n}.final_layer_norm.", "layers.{n}.final_layer_norm."),
]
ROWS: Rows = [
    ("mask_emb", "data2vec_audio.masked_spec_embed"),
    ("feature_extractor.conv_layers.{n}.0.", "data2vec_audio.feature_extractor.conv_layers.{n}.conv."),
    ("feature_extractor.conv_layers.{n}.2.1.", "data2vec_audio.feature_extractor.conv_layers.{n}.layer_norm."),
    ("post_extract_proj.", "data2vec_audio.feature_projection.projection."),
    ("layer_norm.", "data2vec_audio.feature_projection.layer_norm."),
    *under("encoder.", "data2vec_audio.encoder.", ENCODER_ROWS),
    *under("_ema.", "teacher.encoder.", ENCODER_ROWS),
    ("final_proj.", "head.0."),
]


def encoder(m: Values) -> Values:
    original.refuse_unless(
        {"extractor_mode": m.get("extractor_mode", "default")},
        {"extractor_mode": "layer_norm"},
        "transformers' encoder has no group-norm front end",
    )
    original.refuse_unless(m, SWITCHES, "transformers' encoder is post-norm and has no other blocks")
    if number(m, "adp_num", default=-1) > 0:
        raise ValueError(f"model.adp_num = {m['adp_num']} is not supported: transformers' encoder has no adapters.")
    found = read_fields(m, ENCODER)
    depth = found["num_conv_pos_embeddings"]
    if depth < 2:
        raise ValueError(
            f"model.pos_conv_depth = {depth} is not supported: transformers' encoder has stacked positional "
            "convolutions; only 2 and more are."
        )
    convs = original.conv_fields(m.get("conv_feature_layers"), number(m, "conv_pos"), depth)
    return found | convs | {"layer_norm_eps": 1e-5}


def config(cfg: Values, tensors: Tensors) -> Configured:
    m = cfg["model"]
    original.refuse_unless(m, MASKS, "no recipe of pretraining uses it")
    layers_only = m.get("ema_layers_only", True)
    if not layers_only and not m.get("ema_transformer_only", True):
        raise ValueError("model.ema_transformer_only = False is not supported: no recipe of speech uses it.")
    objective = original.read_objective(m) | {
        "masking": {
            "method": "span",
            "prob": number(m, "mask_prob"),
            "length": number(m, "mask_length"),
        },
        "ema_scope": "blocks" if layers_only else "encoder",
    }
    return Data2VecAudioConfig(**encoder(m) | {"objective": objective}), []


def ctc_config(cfg: Values, tensors: Tensors) -> Configured:
    head = cfg["model"]
    fields = encoder(part_of(part_of(head, "w2v_args"), "model")) | original.ctc_head(head, tensors)
    return Data2VecAudioConfig(**fields, bos_token_id=1, eos_token_id=2), []


def to_cfg(config: PreTrainedConfig, objective: ObjectiveConfig) -> Values:
    masking: Any = objective.masking.to_dict()
    model = write_fields(config, ENCODER) | original.write_objective(objective) | SWITCHES
    model |= {
        "_name": "data2vec_audio",
        "max_update": objective.ema_anneal_steps,
        "extractor_mode": "layer_norm",
        "dropout_features": config.feat_proj_dropout,
        "conv_feature_layers": original.conv_spec(config),
        "conv_pos": config.conv_pos_kernel_size * config.num_conv_pos_embeddings,
        "mask_prob": masking["prob"],
        "mask_length": masking["length"],
        "ema_transformer_only": True,
        "ema_layers_only": objective.ema_scope == "blocks",
    }
    return {"model": model, "task": TASK}


TASK = {"_name": "audio_pretraining", "data": "none", "sample_rate": 16000, "normalize": True}
AUDIO = Source(
    words="data2vec 1 in speech",
    arxiv="2202.03555",
    is_source=lambda name, section, tensors: name == "data2vec_audio",
    is_ours=lambda config: config.model_type == "data2vec-audio",
    student="data2vec_audio.",
    rows=ROWS,
    encoder=Data2VecAudioModel,
    pretrained=Data2VecAudioForPreTraining,
    config=config,
    tuned=Tuned(Data2VecAudioForCTC, ctc_config, "w2v_encoder.w2v_model.", [("w2v_encoder.proj.", "lm_head.")]),
    to_cfg=to_cfg,
    epsilon=1e-5,
)
