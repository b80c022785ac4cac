"""Other sizes and published switches than the reference cases have: our models -> the original's layout -> ours."""

import pytest
import torch
from transformers import AutoModelForPreTraining

from data2vec.modeling import (
    Data2Vec2AudioConfig,
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextConfig,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionConfig,
    Data2Vec2VisionForPreTraining,
    Data2VecAudioConfig,
    Data2VecAudioForPreTraining,
    Data2VecTextConfig,
    Data2VecTextForPreTraining,
    Data2VecVisionConfig,
    Data2VecVisionForPreTraining,
    Point2VecConfig,
    Point2VecForPreTraining,
)
from data2vec.modeling.convert.command import main


SIZES = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2}
CONVS = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_conv_pos_embedding_groups": 4}
TRANSFORMER = {"method": "transformer", "layers": 1, "drop_path_rate": 0.1}
CLOUDS = {"target_layers": [0, 1], "loss_scale": 1 / 24, "original_padding": False}
DECODER = {"dim": 20, "layers": 2, "kernel": 5, "groups": 4}
IMAGE = {"image_size": 32, "patch_size": 8, "intermediate_size": 96}
RECTANGLES = {"method": "beit_block", "ratio": 0.5, "min_patches": 2, "max_patches": 7}
WIDE_BLOCKS = {"method": "block", "prob": 0.55, "length": 5, "adjust": 0.1}


def model_of(model_class, config_class, objective: dict, **kwargs):
    default = getattr(config_class, "default_objective", None) or model_class.default_objective
    # what comes from the original always says how padding acted there
    objective = default | {"top_k_layers": 2, "original_padding": True} | objective
    return model_class(config_class(**SIZES | kwargs, objective=objective))


MODELS = {
    "2.0 speech large": lambda: model_of(
        Data2Vec2AudioForPreTraining,
        Data2Vec2AudioConfig,
        {"decoder": DECODER, "ema_end_decay": 1, "masking": WIDE_BLOCKS, "cls_loss_weight": 2.0},
        **CONVS | {"num_prenet_layers": 2, "num_extra_tokens": 3, "num_conv_pos_embeddings": 2},
    ),
    "2.0 vision large": lambda: model_of(
        Data2Vec2VisionForPreTraining,
        Data2Vec2VisionConfig,
        {"decoder": DECODER, "ema_end_decay": 1},
        **IMAGE | {"num_prenet_layers": 0, "image_size": 42, "patch_size": 14},
    ),
    "2.0 text large": lambda: model_of(
        Data2Vec2TextForPreTraining,
        Data2Vec2TextConfig,
        {"decoder": DECODER, "target_layer_norm": "layer", "target_norm": "instance"},
        vocab_size=31,
    ),
    "1 speech, AudioSet": lambda: model_of(
        Data2VecAudioForPreTraining,
        Data2VecAudioConfig,
        {"ema_scope": "encoder", "target_norm": "layer"},
        **CONVS | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 6},
    ),
    "1 text": lambda: model_of(
        Data2VecTextForPreTraining,
        Data2VecTextConfig,
        {"head_layers": 3, "loss_scale": None, "ema_scope": "all"},
        vocab_size=31,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ),
    "1 vision, no position bias, no LayerScale": lambda: model_of(
        Data2VecVisionForPreTraining,
        Data2VecVisionConfig,
        {"head_layers": 0, "ema_scope": "blocks", "target_tap": "ffn", "masking": RECTANGLES},
        **IMAGE | {"layer_scale_init_value": 0.0, "layer_norm_eps": 1e-5},
    ),
    "1 vision, data2vec_vision": lambda: model_of(
        Data2VecVisionForPreTraining,
        Data2VecVisionConfig,
        {"masking": RECTANGLES, "target_norm": None},
        **IMAGE | {"use_shared_relative_position_bias": True, "layer_norm_eps": 1e-6},
    ),
    "Point2Vec": lambda: model_of(
        Point2VecForPreTraining,
        Point2VecConfig,
        CLOUDS | {"decoder": TRANSFORMER, "masking": {"method": "neighbours", "prob": 0.25}, "target_norm": "group"},
        intermediate_size=96,
        group_radius=0.3,
    ),
    "data2vec-pc": lambda: model_of(
        Point2VecForPreTraining,
        Point2VecConfig,
        CLOUDS | {"decoder": None, "head_layers": 2, "masking": {"method": "random", "prob": 40.5 / 64}},
        intermediate_size=96,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():  # teacher and student apart
            parameter.zero_() if "token_type" in parameter_name else parameter.normal_()
    if name in ("2.0 text large", "Point2Vec", "data2vec-pc"):  # what its teacher shares with the student
        model.update_teacher(decay=1.0)
    model.save_pretrained(tmp_path / "own")
    assert main([str(tmp_path / "own"), str(tmp_path / "original.pt"), "--to-fairseq"]) == 0
    assert main([str(tmp_path / "original.pt"), str(tmp_path / "again")]) == 0
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "again")
    weights = again.state_dict()
    assert set(weights) == set(model.state_dict())
    for tensor_name, tensor in model.state_dict().items():
        assert torch.equal(weights[tensor_name], tensor), tensor_name
    settings = [m.config.to_dict() for m in (model, again)]
    for setting in settings:
        for field in ("_name_or_path", "num_updates"):
            setting.pop(field, None)
    assert settings[0] == settings[1]
