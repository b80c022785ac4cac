"""Modalities on one trunk: each step is that of the modality's own model, and what is shared is there once."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining

from data2vec.modeling import JointConfig, JointForPreTraining, JointModel
from data2vec.modeling.configuration_joint import own_fields
from data2vec.modeling.configuration_medcoss import MedCossImageConfig
from data2vec.modeling.modeling_joint import pretraining_class
from tests.modeling.tiny_joint import MAKERS, SCHEDULE, inputs_of, joint_config


EACH = pytest.mark.parametrize("name", MAKERS)


def build(**fields):
    torch.manual_seed(0)
    model = JointForPreTraining(joint_config(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def alone(joint, name):
    """The modality's own class with the same weights, which shares nothing with anybody."""
    own = joint.config.of(name)
    model = pretraining_class(own)(own)
    model.load_state_dict(copy.deepcopy(joint.modalities[name].state_dict()))
    return model


def step(model, batch, **more):
    torch.manual_seed(3)  # masks and noise
    output = model(**batch, **more)
    output.loss.backward()
    return output.loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@EACH
@pytest.mark.parametrize("padded", [False, True])
def test_the_step_of_a_modality_is_that_of_its_own_model(name, padded):
    """Loss, gradients and the teacher's move, to the last bit; nothing else has a gradient."""
    joint, batch = build(), inputs_of(name, padded)
    single = alone(joint, name)
    loss, gradients = step(joint, batch, modality=name)
    expected_loss, expected = step(single, batch)
    assert torch.equal(loss, expected_loss)
    own = joint.modalities[name]
    learning = {n: p for n, p in own.named_parameters() if p.grad is not None}
    assert learning.keys() == expected.keys() and len(gradients) == len(expected)
    assert all(torch.equal(p.grad, expected[n]) for n, p in learning.items())
    joint.update_teacher(0.75)
    single.update_teacher(0.75)
    before, after = single.teacher.state_dict(), own.teacher.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[n], tensor) for n, tensor in before.items())


def test_the_teachers_of_all_modalities_move_once():
    joint = build()
    before = copy.deepcopy(joint.teacher.state_dict())
    joint.update_teacher(0.75)
    student, after = joint.joint.state_dict(), joint.teacher.state_dict()
    trunk = [name for name in before if name.startswith("trunk.")]
    assert len(trunk) == 3 * 12
    for name in trunk:
        torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * student[name])


def test_a_frozen_teacher_shares_no_block_with_one_that_moves():
    fields = {name: own_fields(make()) for name, make in MAKERS.items()}
    for name in ("image", "points"):
        fields[name]["objective"]["ema_scope"] = "frozen"
    joint = build(modalities=fields)
    layers = {name: model.teacher.encoder.layers for name, model in joint.modalities.items()}
    assert layers["text"] is layers["audio"] and layers["image"] is layers["points"] is not layers["text"]
    before = copy.deepcopy(joint.teacher.state_dict())
    joint.update_teacher(0.5)
    moved = {name for name, tensor in joint.teacher.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("trunk.") for name in moved)
    assert not any(name.startswith(("encoders.image.", "encoders.points.")) for name in moved)
    joint.reset_teacher()  # at the start it is a copy of the student all the same
    assert torch.equal(layers["image"][0].output.weight, joint.joint.trunk.layers[0].output.weight)


def test_frozen_teachers_are_read_again_whatever_the_order_of_the_modalities(tmp_path):
    """A saved configuration sorts its keys: text, the first here, becomes the last."""
    config = joint_config()
    for name in ("text", "image"):
        config.modalities[name]["objective"]["ema_scope"] = "frozen"
    torch.manual_seed(0)
    model = JointForPreTraining(config)
    with torch.no_grad():
        for weight in model.teacher.parameters():
            weight.add_(torch.rand_like(weight))
    model.save_pretrained(tmp_path)
    again, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert list(again.parts) != list(model.parts) and not info["missing_keys"] and not info["unexpected_keys"]
    for name, part in model.parts.items():
        for key, value in part.teacher.state_dict().items():
            assert torch.equal(again.parts[name].teacher.state_dict()[key], value), (name, key)


def test_shared_front_ends_are_one_whatever_the_order_and_go_on_with_one_more(tmp_path):
    """As of X-rays, and later of pathology too; the teachers' as well. A saved configuration sorts its keys."""
    scan = own_fields(MAKERS["image"]())
    first = build(modalities={"xray": scan}, shared_front_ends=[["xray"]])
    first.joint.save_pretrained(tmp_path / "first")
    groups = {"modalities": {"xray": scan, "pathology": scan}, "shared_front_ends": [["xray", "pathology"]]}
    model, info = JointForPreTraining.from_pretrained(
        tmp_path / "first", config=joint_config(**groups), output_loading_info=True
    )
    own = "joint.encoders.pathology.encoder.extra_tokens"  # no module
    assert {name for name in info["missing_keys"] if name.startswith("joint.")} == {own}
    xray, pathology = (model.joint.encoders[name] for name in ("xray", "pathology"))
    assert xray.embeddings is pathology.embeddings
    assert torch.equal(xray.embeddings.projection.weight, first.joint.encoders["xray"].embeddings.projection.weight)
    with torch.no_grad():
        for weight in model.joint.parameters():
            weight.add_(torch.rand_like(weight))
    before = copy.deepcopy(model.teacher.state_dict())
    model.update_teacher(0.75)
    teachers = [model.teacher.encoders[name].embeddings.projection.weight for name in ("xray", "pathology")]
    assert teachers[0] is teachers[1]
    was = next(before[name] for name in before if name.endswith("embeddings.projection.weight"))
    torch.testing.assert_close(teachers[0], 0.75 * was + 0.25 * xray.embeddings.projection.weight)
    model.save_pretrained(tmp_path / "both")
    again, info = AutoModelForPreTraining.from_pretrained(tmp_path / "both", output_loading_info=True)
    assert list(again.parts) == ["pathology", "xray"] and not info["missing_keys"] and not info["unexpected_keys"]
    assert again.joint.encoders["xray"].embeddings is again.joint.encoders["pathology"].embeddings
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    "objective", [{}, {"target": "same_view", "ema_scope": "frozen", "cls_loss_weight": 0.0}], ids=["pixels", "frozen"]
)
def test_modalities_without_a_moving_teacher_share_their_front_end(objective, tmp_path):
    """As MedCoSS does: pixels have no teacher, a rehearsed modality has a frozen one."""
    trunk = {"hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 64}
    scan = own_fields(MedCossImageConfig(**trunk, image_size=32))
    modalities = {"xray": scan | {"objective": scan["objective"] | objective}, "pathology": scan}
    config = JointConfig(**trunk, modalities=modalities, shared_front_ends=[["xray", "pathology"]])
    model = JointForPreTraining(config)
    assert model.parts["xray"].base_model.embeddings is model.parts["pathology"].base_model.embeddings
    model.save_pretrained(tmp_path)
    _, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_the_trunk_is_counted_once():
    joint = build()
    singles = {name: alone(joint, name).base_model for name in MAKERS}
    blocks = sum(p.numel() for p in singles["text"].encoder.layers.parameters())
    total = sum(p.numel() for single in singles.values() for p in single.parameters())
    assert joint.joint.num_parameters() == total - (len(MAKERS) - 1) * blocks
    assert len({id(model.base_model.encoder.layers) for model in joint.modalities.values()}) == 1
    names = [name for name in joint.state_dict() if "layers.0.attention.qkv.weight" in name and "decoder" not in name]
    assert names == ["joint.trunk.layers.0.attention.qkv.weight", "teacher.trunk.layers.0.attention.qkv.weight"]


def test_libraries_find_input_embeddings():
    """FSDP2's launcher asks for them."""
    joint = build()
    assert joint.get_input_embeddings() is joint.joint.encoders["text"].embeddings.word_embeddings


def test_a_state_dict_fills_what_is_shared():
    joint, other = build(), JointForPreTraining(joint_config())
    other.load_state_dict(joint.state_dict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in joint.state_dict().items())
    state = joint.state_dict()
    del state["joint.trunk.layers.0.attention.qkv.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*trunk\.layers\.0\.attention\.qkv\.weight"):
        other.load_state_dict(state)


@EACH
def test_an_encoder_of_one_modality_opens_as_one_that_was_trained_alone(name, tmp_path):
    """From the joint folder by name; and saved from there, as a plain folder of its own class."""
    joint = build().eval()
    joint.save_encoder(tmp_path / "joint")
    batch = {k: v for k, v in inputs_of(name, padded=True).items() if k != "labels"}
    expected = alone(joint, name).base_model.eval()(**batch).last_hidden_state
    assert torch.equal(JointModel.from_pretrained(tmp_path / "joint")(**batch).last_hidden_state, expected)
    encoder, info = AutoModel.from_pretrained(tmp_path / "joint", modality=name, output_loading_info=True)
    assert type(encoder) is joint.modalities[name].base_class and not any(info.values())
    assert torch.equal(encoder(**batch).last_hidden_state, expected)
    encoder.save_pretrained(tmp_path / "plain")
    plain, info = AutoModel.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not any(info.values()) and torch.equal(plain(**batch).last_hidden_state, expected)
    assert plain.config.objective == joint.config.of(name).objective
    assert set(load_file(tmp_path / "plain" / "model.safetensors")) == set(alone(joint, name).base_model.state_dict())


def test_the_next_run_may_have_other_modalities(tmp_path):
    """From the encoders, or from the whole model: what is known is kept, what is new starts as its student does."""
    joint = build()
    joint.save_encoder(tmp_path / "encoders")
    joint.save_pretrained(tmp_path / "whole")
    fields = {name: own_fields(MAKERS[name]()) for name in ("audio", "text")}
    fields["pictures"] = own_fields(MAKERS["image"]())
    for folder in ("encoders", "whole"):
        config = joint_config(modalities=fields)
        started = JointForPreTraining.from_pretrained(tmp_path / folder, config=config)
        for name in ("audio", "text"):
            own, known = started.modalities[name].base_model.state_dict(), joint.modalities[name].base_model
            assert all(torch.equal(tensor, own[n]) for n, tensor in known.state_dict().items())
        new = started.modalities["pictures"]
        assert torch.equal(new.teacher.embeddings.projection.weight, new.base_model.embeddings.projection.weight)
        trunk = started.teacher.trunk.layers[0].output.weight
        expected = joint.teacher if folder == "whole" else joint.joint
        assert torch.equal(trunk, expected.trunk.layers[0].output.weight)


def test_inputs_tell_the_modality():
    joint = build()
    with pytest.raises(ValueError, match=r"labels are those of no modality.*text: input_ids, audio: input_values"):
        joint(labels=torch.zeros(2))
    with pytest.raises(ValueError, match="modality = 'sound': must be one of text, audio, image, points"):
        joint.joint(modality="sound", **inputs_of("audio"))
    two = {**joint.config.modalities, "music": joint.config.modalities["audio"]}
    with pytest.raises(ValueError, match="audio and music: say modality="):
        JointModel(joint_config(modalities=two))(**inputs_of("audio"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 48}, r"modalities\.audio: hidden_size = 48 contradicts 24, which all modalities share"),
        ({"objective": {"ema_decay": 0.5}}, r"audio: objective\.ema_decay = 0\.5 contradicts 0\.9"),
        ({"model_type": "bert"}, r"modalities\.audio: model_type = 'bert': must be one of av-data2vec, data2vec2-a"),
        ({"conv_dim": [3]}, r"modalities\.audio: conv_dim = \[3\]"),
        ({"objective": {"veiws": 3, "masking": {"method": "random", "prob": 0.5}}}, "audio.*did you mean 'views'"),
    ],
)
def test_contradictions_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        joint_config(modalities={"audio": own_fields(MAKERS["audio"]()) | fields})


def test_names_and_emptiness_are_refused():
    for name in ("Audio", "a.b", "items", "1st"):
        with pytest.raises(ValueError, match=f"modalities names '{name}'"):
            joint_config(modalities={name: own_fields(MAKERS["audio"]())})
    with pytest.raises(ValueError, match="modalities is empty"):
        JointModel(JointConfig())
    for groups in ([["text", "audio"]], [["text", "speech"]], [["text"], ["text"]]):
        with pytest.raises(StrictDataclassError, match="shared_front_ends = .*lists of modalities of one model_type"):
            joint_config(shared_front_ends=groups)


def test_the_schedule_is_one(tmp_path):
    joint = build()
    assert joint.objective.to_dict() == SCHEDULE | {"ema_delay": 0}
    assert all(model.objective.ema_decay == 0.9 for model in joint.modalities.values())
    assert "ema_decay" not in joint.config.modalities["audio"]["objective"]
    joint.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert loaded.config.to_dict()["modalities"] == joint.config.to_dict()["modalities"]
