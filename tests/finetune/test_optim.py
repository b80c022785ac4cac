"""Which parameter learns how fast: against tables written by hand, for every kind of encoder."""

import re

import pytest
import torch
from transformers import (
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from data2vec.finetune.optim import layer_numbers, parameter_groups
from tests.finetune.encoders import encoder_folder


HEADS = {
    "audio": AutoModelForCTC,
    "text": AutoModelForSequenceClassification,
    "vision": AutoModelForImageClassification,
}
# (modality, family) -> beginning of a parameter's name -> its layer, of the 2 blocks' 0 to 3 (3 blocks: 0 to 4).
# BEiT: embeddings 0, block i (from 1) i, what comes after them, its shared position table included, the last.
V1, V2 = r"data2vec_\w+\.", r"data2vec2\."
LAYERS = {
    ("audio", "v1"): {
        V1 + "masked_spec_embed|" + V1 + "feature_": 0,
        V1 + r"encoder\.(pos_conv_embed|layer_norm)\.": 0,
        V1 + r"encoder\.layers\.0\.": 1,
        V1 + r"encoder\.layers\.1\.": 2,
        r"lm_head\.": 3,
    },
    ("audio", "v2"): {
        V2 + r"(embeddings|positions)\.": 0,
        V2 + r"encoder\.(alibi|norm)\.": 0,
        V2 + r"encoder\.layers\.0\.": 1,
        V2 + r"encoder\.layers\.1\.": 2,
        r"lm_head\.": 3,
    },
    ("text", "v1"): {
        V1 + r"embeddings\.": 0,
        V1 + r"encoder\.layer\.0\.": 1,
        V1 + r"encoder\.layer\.1\.": 2,
        r"classifier\.": 3,
    },
    ("text", "v2"): {
        V2 + r"embeddings\.": 0,
        V2 + r"encoder\.layers\.0\.": 1,
        V2 + r"encoder\.layers\.1\.": 2,
        r"(classifier|dense)\.": 3,
    },
    ("vision", "v1"): {
        V1 + r"embeddings\.": 0,
        V1 + r"encoder\.layer\.0\.": 1,
        V1 + r"encoder\.layer\.1\.": 2,
        V1 + r"encoder\.relative_position_bias\.": 3,
        V1 + r"pooler\.": 3,
        r"classifier\.": 3,
    },
    ("vision", "v2"): {
        V2 + r"embeddings\.": 0,
        V2 + r"encoder\.(extra_tokens|norm\.)": 0,
        V2 + r"encoder\.prenet\.0\.": 1,
        V2 + r"encoder\.layers\.0\.": 2,
        V2 + r"encoder\.layers\.1\.": 3,
        r"(norm|classifier)\.": 4,
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    def build(modality, family):
        fields = {"use_mean_pooling": True} if modality == "vision" else {}
        folder = encoder_folder(tmp_path_factory.mktemp("encoder"), modality, family)
        return HEADS[modality].from_pretrained(folder, **fields)

    return {kind: build(*kind) for kind in LAYERS}


@pytest.mark.parametrize("kind", LAYERS, ids="-".join)
def test_layers_are_those_of_the_table(models, kind):
    numbers = layer_numbers(models[kind])
    table = LAYERS[kind]
    for name, layer in numbers.items():
        rows = [expected for beginning, expected in table.items() if re.match(beginning, name)]
        assert rows == [layer], name
    for beginning in table:
        assert any(re.match(beginning, name) for name in numbers), f"no parameter is called {beginning}"


@pytest.mark.parametrize("kind", [("vision", "v1"), ("vision", "v2")], ids="-".join)
def test_rates_follow_the_law(models, kind):
    model, last = models[kind], max(LAYERS[kind].values())
    groups = parameter_groups(model, learning_rate=3.0, weight_decay=0.1, layer_decay=0.65)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates.keys() == dict(model.named_parameters()).keys()
    expected = {0: 3 * 0.65**last, 1: 3 * 0.65 ** (last - 1), last: 3.0}  # head: the full rate
    for beginning, layer in LAYERS[kind].items():
        if layer in expected:
            got = {rate for name, rate in rates.items() if re.match(beginning, name)}
            assert list(got) == [pytest.approx(expected[layer])], beginning


def test_the_head_can_have_its_own_rate_and_embeddings_the_full_one(models):
    model = models["vision", "v2"]
    groups = parameter_groups(
        model, learning_rate=3.0, weight_decay=0.0, layer_decay=0.5, decay_embeddings=False, head_learning_rate=7.0
    )
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert {rates["classifier.weight"], rates["classifier.bias"], rates["norm.weight"]} == {7.0}
    assert rates["data2vec2.embeddings.projection.weight"] == rates["data2vec2.encoder.extra_tokens"] == 3.0
    assert rates["data2vec2.encoder.layers.1.output.weight"] == 1.5


@pytest.mark.parametrize("kind", LAYERS, ids="-".join)
def test_biases_norms_and_what_is_no_factor_are_not_decayed(models, kind):
    model = models[kind]
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5)
    decayed = {name for group in groups if group["weight_decay"] == 0.1 for name in group["names"]}
    spared = {name for group in groups if group["weight_decay"] == 0.0 for name in group["names"]}
    assert decayed | spared == dict(model.named_parameters()).keys() and not decayed & spared
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)]
    assert linear and all(f"{name}.weight" in decayed for name in linear)
    norms = [name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    assert not [name for name in decayed if name.endswith("bias") or name.rpartition(".")[0] in norms]
    apart = ("cls_token", "extra_tokens", "relative_position_bias_table", "masked_spec_embed", "position_embeddings")
    assert not [name for name in decayed if any(word in name for word in apart)]


def test_frozen_parameters_are_in_no_group(models):
    model = models["audio", "v1"]
    model.freeze_feature_encoder()
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1)
    names = {name for group in groups for name in group["names"]}
    assert names and not [name for name in names if "feature_extractor" in name]
    model.data2vec_audio.feature_extractor.requires_grad_(True)
