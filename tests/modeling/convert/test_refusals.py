"""What cannot be converted is refused in one line that names it, and leaves nothing behind."""

import pytest
import torch

from data2vec.modeling.convert import command as convert_fairseq
from data2vec.modeling.convert.original import conv_layers
from data2vec.tests.modeling.fairseq_cases import checkpoint_of, refusal


SOME = ["v1_audio_a", "v1_text_a", "v1_vision_a", "v2_audio_a", "v2_image_a", "v2_text_a"]


def a_weight(content: dict) -> str:
    return next(name for name in content["model"] if name.endswith("layers.1.fc1.weight") or "blocks.1.mlp" in name)


@pytest.mark.parametrize("case", SOME)
@pytest.mark.parametrize("options", [(), ("--encoder-only",)])
def test_missing_tensor(case, options, tmp_path, capsys):
    content = checkpoint_of(case)
    del content["model"][name := a_weight(content)]
    line = refusal(content, tmp_path, capsys, *options)
    assert name in line and "has no tensor" in line


@pytest.mark.parametrize("case", SOME)
def test_missing_tensor_of_the_teacher(case, tmp_path, capsys):
    content = checkpoint_of(case)
    teacher = content["model"]["encoder._ema" if case.startswith("v1_text") else "_ema"]
    name = [name for name in teacher if name.endswith(".weight")][-1]
    del teacher[name]
    assert name in refusal(content, tmp_path, capsys)


@pytest.mark.parametrize("case", SOME)
def test_no_teacher(case, tmp_path, capsys):
    content = checkpoint_of(case)
    content["model"] = {name: value for name, value in content["model"].items() if not isinstance(value, dict)}
    assert "--encoder-only" in refusal(content, tmp_path, capsys)


@pytest.mark.parametrize("case", SOME)
def test_surplus_tensor(case, tmp_path, capsys):
    content = checkpoint_of(case)
    content["model"]["encoder.quantizer.weight"] = torch.zeros(2)
    assert "encoder.quantizer.weight" in refusal(content, tmp_path, capsys)


@pytest.mark.parametrize("case", SOME)
def test_shape_that_contradicts_the_configuration(case, tmp_path, capsys):
    content = checkpoint_of(case)
    name = a_weight(content)
    content["model"][name] = torch.zeros(5, 7)
    line = refusal(content, tmp_path, capsys)
    assert name in line and "(5, 7)" in line


@pytest.mark.parametrize("case", ["v1_audio_a", "v1_text_a", "v1_vision_a", "v2_text_a"])
def test_configuration_of_fewer_blocks(case, tmp_path, capsys):
    content = checkpoint_of(case)
    model = content["cfg"]["model"]
    section, name = {
        "v1_audio_a": (model, "encoder_layers"),
        "v1_text_a": (model.get("transformer", {}).get("encoder"), "layers"),
    }.get(case, (model, "depth"))
    section[name] -= 1
    model["average_top_k_layers"] = 2
    assert "has no place: its configuration has fewer parts" in refusal(content, tmp_path, capsys)


def test_buffer_that_contradicts_the_configuration(tmp_path, capsys):
    content = checkpoint_of("v1_vision_a")
    content["model"]["encoder.rel_pos_bias.relative_position_index"] += 1
    assert "relative_position_index contradicts" in refusal(content, tmp_path, capsys)
    content = checkpoint_of("v2_image_a")
    name = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
    content["model"][name] = content["model"][name] + 1
    assert "fixed_positional_encoder.positions contradicts" in refusal(content, tmp_path, capsys)


SWITCHES = [
    ("v1_audio_a", "extractor_mode", "default"),
    ("v1_audio_a", "layer_norm_first", True),
    ("v1_audio_a", "layer_type", "conformer"),
    ("v1_audio_a", "pos_conv_depth", 1),
    ("v1_audio_a", "mask_selection", "uniform"),
    ("v1_audio_a", "adp_num", 2),
    ("v1_audio_a", "group_norm_target_layer", True),
    ("v1_audio_a", "conv_feature_layers", "__import__('os').system('ls')"),
    ("v1_text_a", "transformer.encoder.normalize_before", True),
    ("v1_text_a", "transformer.layernorm_embedding", False),
    ("v1_vision_a", "layer_norm_target_layer,instance_norm_target_layer", True),
    ("v2_audio_a", "layer_norm_first", True),
    ("v2_audio_a", "modalities.audio.extractor_mode", "default"),
    ("v2_image_a", "modalities.image.use_alibi_encoder", True),
    ("v2_image_a", "modalities.image.transformer_decoder", True),
    ("v2_image_a", "recon_loss", 1.0),
    ("v2_text_a", "shared_decoder", {"decoder_dim": 3}),
    ("v2_audio_a", "task.precompute_mask_config.mask_dropout", 0.1),
    ("v2_image_a", "task.precompute_mask_config.non_overlapping", True),
    ("eat_a", "utterance_level", True),
    ("eat_a", "modalities.image.patch_size", 8),
    ("eat_a", "task.flexible_mask", True),
    ("eat_a", "task.precompute_mask_config.expand_adjacent", True),
    ("emotion2vec_train_a", "adversarial_training", True),
    ("emotion2vec_train_a", "cls_type", "frame"),
    ("point2vec_a", "encoder_dropout", 0.1),
    ("point2vec_a", "d2v_target_norm", "rms"),
    ("point2vec_a", "loss", "l1"),
    ("point2vec_cls_a", "cls_head_pooling", "median"),
]


@pytest.mark.parametrize(("case", "paths", "value"), SWITCHES)
def test_switch_that_cannot_be_expressed(case, paths, value, tmp_path, capsys):
    content = checkpoint_of(case)
    for path in paths.split(","):
        *sections, name = path.split(".")
        place = content.get("hyper_parameters") or content["cfg"]["model"]
        if sections and sections[0] == "task":
            place = content["cfg"]
        for section in sections:
            place = place[section]
        place[name] = value
    line = refusal(content, tmp_path, capsys)
    assert (name if "conv_" not in name else "convolutions") in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wav2vec2", "'wav2vec2' is no model of data2vec"),
        ("wav2vec_ctc", "w2v_args is missing"),
        ("data2vec_image_classification", "is no model of data2vec that can be converted"),
        (None, "None"),
    ],
)
def test_other_models(name, words, tmp_path, capsys):
    content = checkpoint_of("v1_audio_a")
    content["cfg"]["model"]["_name"] = name
    assert words in refusal(content, tmp_path, capsys)


def test_wav2vec_inside_a_recogniser(tmp_path, capsys):
    content = checkpoint_of("v1_audio_a")
    inner = {"model": {"_name": "wav2vec2"}}
    content["cfg"] = {"model": {"_name": "wav2vec_ctc", "w2v_args": inner}}
    assert "'wav2vec2'" in refusal(content, tmp_path, capsys)


def test_missing_field(tmp_path, capsys):
    content = checkpoint_of("v2_audio_a")
    del content["cfg"]["model"]["norm_eps"]
    assert "model.norm_eps is missing" in refusal(content, tmp_path, capsys)


def test_value_that_makes_no_network(tmp_path, capsys):
    content = checkpoint_of("v2_audio_a")
    content["cfg"]["model"]["num_heads"] = 5
    assert "num_attention_heads = 5" in refusal(content, tmp_path, capsys)


def test_folder_that_is_there_already(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    assert "is there already" in refusal(checkpoint_of("v2_text_a"), tmp_path, capsys)
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_failure_in_the_middle_of_writing_leaves_nothing(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise ValueError("the disk is full")

    monkeypatch.setattr(convert_fairseq, "_card", full)  # the last thing that is written
    assert "the disk is full" in refusal(checkpoint_of("v2_text_a"), tmp_path, capsys)


def test_convolutions_are_read_without_running_them():
    published = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    assert conv_layers(published) == eval(published)
    assert conv_layers([[32, 10, 5], [32, 3, 2]]) == [(32, 10, 5), (32, 3, 2)]
