"""emotion2vec: the published numbers, and a start from weights of data2vec 2.0 in speech."""

import copy

import pytest
import torch

from data2vec.modeling import Data2Vec2AudioForPreTraining, Emotion2vecConfig, Emotion2vecForPreTraining
from tests.modeling.tiny_data2vec2 import audio_config, build, config_of, inputs


def test_the_published_base_model():
    config = Emotion2vecConfig()
    sizes = (config.hidden_size, config.num_prenet_layers, config.num_hidden_layers, config.num_extra_tokens)
    assert sizes == (768, 4, 8, 10)
    objective = config.objective
    assert (objective["views"], objective["top_k_layers"]) == (8, 8)
    assert objective["cls_pooling"] == "tokens" and objective["cls_loss_weight"] == objective["regression_weight"] == 1
    assert (objective["ema_decay"], objective["ema_end_decay"], objective["ema_anneal_steps"]) == (
        0.999,
        0.99999,
        20_000,
    )


def test_the_first_utterance_token_starts_at_zero():
    model = Emotion2vecForPreTraining(config_of(Emotion2vecForPreTraining, num_extra_tokens=7, hidden_size=240))
    tokens = model.base_model.encoder.extra_tokens
    assert not tokens[:, 0].any() and tokens[:, 1:].std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(model.teacher.encoder.extra_tokens, tokens)


@pytest.mark.parametrize("part", ["whole", "encoder"])
def test_it_starts_from_data2vec_2(tmp_path, part):
    start = build(Data2Vec2AudioForPreTraining, num_extra_tokens=0)  # teacher and student differ
    start.save_pretrained(tmp_path / "whole")
    start.save_encoder(str(tmp_path / "encoder"))
    model, loading = Emotion2vecForPreTraining.from_pretrained(tmp_path / part, output_loading_info=True)
    new = {"data2vec2.encoder.extra_tokens"}
    assert {name for name in loading["missing_keys"] if not name.startswith("decoder.")} == new
    assert (not any(name.startswith("decoder.") for name in loading["missing_keys"])) == (part == "whole")
    assert not loading["unexpected_keys"] and not loading["mismatched_keys"]
    tokens = model.base_model.encoder.extra_tokens
    assert tokens.shape[1] == 10 and not tokens[:, 0].any() and tokens[:, 1:].all()
    assert torch.equal(model.teacher.encoder.extra_tokens, tokens)
    teacher = start.teacher if part == "whole" else start.base_model
    for theirs, ours in ((start.base_model, model.base_model), (teacher, model.teacher)):
        expected, found = theirs.state_dict(), ours.state_dict()
        assert all(torch.equal(expected[name], found[name]) for name in found if "extra_tokens" not in name)

    config, before = model.config, start.config
    assert config.model_type == "emotion2vec" and config.architectures is None
    assert config.num_hidden_layers == before.num_hidden_layers and tuple(config.conv_dim) == before.conv_dim
    assert config.objective == before.objective | Emotion2vecConfig.own_objective
    assert model(**inputs("audio", padded=True)).loss_terms.keys() == {"regression", "utterance"}

    model.save_pretrained(tmp_path / "again")
    again = Emotion2vecForPreTraining.from_pretrained(tmp_path / "again")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_tokens_of_the_start_are_kept(tmp_path):
    start = build(Data2Vec2AudioForPreTraining, num_extra_tokens=2)
    start.save_pretrained(tmp_path)
    model = Emotion2vecForPreTraining.from_pretrained(tmp_path)
    assert torch.equal(model.base_model.encoder.extra_tokens, start.base_model.encoder.extra_tokens)


def test_a_teacher_that_lacks_what_the_student_has_is_refused(tmp_path):
    start = build(Data2Vec2AudioForPreTraining, num_extra_tokens=0)
    weights = copy.deepcopy(start.state_dict())
    weights.pop("teacher.encoder.layers.0.output.bias")
    config = Emotion2vecConfig(**audio_config().to_dict() | {"model_type": "emotion2vec"})
    with pytest.raises(ValueError, match=r"2 of \d+ tensors are missing, 'teacher.encoder.extra_tokens' among them"):
        Emotion2vecForPreTraining.from_pretrained(None, config=config, state_dict=weights)
