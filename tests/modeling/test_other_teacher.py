"""Teachers that cost less, or are there already: shallow ones, and other encoders in folders of their own."""

import pytest
import torch
from transformers import AutoModel, ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from data2vec.modeling import Data2Vec2AudioForPreTraining, Data2Vec2VisionForPreTraining
from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.evaluation.probe import teacher_encoder
from data2vec.pretraining.run import build_model, main
from data2vec.tests.modeling.tiny_data2vec2 import CONFIGS, MODELS, build, inputs, same
from data2vec.tests.pretraining.tiny_runs import recipe, write_recipe


SIZES = {"hidden_size": 20, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 28}
OTHERS = {
    Data2Vec2VisionForPreTraining: lambda: ViTModel(ViTConfig(image_size=(12, 20), patch_size=4, **SIZES)),
    Data2Vec2AudioForPreTraining: lambda: Wav2Vec2Model(
        Wav2Vec2Config(
            conv_dim=(10, 14), conv_kernel=(7, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=4, feat_extract_norm="layer", **SIZES,
        )
    ),
}  # fmt: skip
DISTILLED = {"target": "other_model", "ema_scope": "frozen", "target_tap": "end_of_block", "cls_loss_weight": 0}


def taught(model_class, **fields):
    torch.manual_seed(7)
    other = OTHERS[model_class]().eval()
    named = {"teacher": "a/folder", "teacher_config": other.config.to_dict()}
    objective = CONFIGS[MODELS[model_class]]().objective | DISTILLED | named | fields
    model = build(model_class, objective=objective)
    model.teacher.model.load_state_dict(other.state_dict())
    return model, other


@pytest.mark.parametrize("model_class", OTHERS)
def test_another_encoder_teaches_and_stays(model_class, tmp_path):
    model, other = taught(model_class)
    kind = MODELS[model_class]
    padded = kind == "audio"
    batch = inputs(kind, padded)
    out = model.train()(**batch, output_teacher_layers=True)
    with torch.no_grad():
        states = other(**batch, output_hidden_states=True).hidden_states[1:]
    front = 1 if kind == "vision" else 0
    assert len(out.teacher_layers) == 4 and out.loss_terms.keys() == {"distillation"}
    expected = []
    for state in states[-2:]:  # K = 2, instance norm over real tokens
        rows = []
        for row, length in zip(state[:, front:], (30, 22, 30), strict=True):
            steps = row[:length] if padded else row
            rows.append((steps - steps.mean(0)) / (steps.var(0, unbiased=False) + 1e-5).sqrt())
        expected.append(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
    expected = sum(expected) / 2
    norm = model.objective.target_norm
    expected = torch.nn.functional.layer_norm(expected, (20,)) if norm == "layer" else expected
    real = torch.ones(expected.shape[:2], dtype=torch.bool) if out.real is None else out.real
    same(out.all_targets[real], expected[real])
    out.loss.backward()
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    model.update_teacher(0.5)
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    assert not model.teacher.model.training
    same(dict(model.teacher.state_dict()), before, 0.0)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    same(loaded.teacher.model.state_dict(), other.state_dict(), 0.0)
    assert not any(parameter.requires_grad for parameter in loaded.teacher.parameters())
    same(teacher_encoder(loaded).state_dict(), loaded.base_model.state_dict(), 0.0)  # a student has no copy


def test_a_recipe_names_the_folder(tmp_path):
    other = ViTModel(ViTConfig(image_size=8, patch_size=2, num_channels=1, **SIZES))
    other.save_pretrained(tmp_path / "dino")
    asked = recipe("vision-2", tmp_path, tmp_path / "run")
    asked["objective"] |= DISTILLED | {"teacher": str(tmp_path / "dino")}
    run = resolve(asked)
    model, facts = build_model(run)
    same(model.teacher.model.state_dict(), AutoModel.from_pretrained(tmp_path / "dino").state_dict(), 0.0)
    assert facts["teacher"] == f"all from {tmp_path / 'dino'}"
    asked["objective"]["teacher"] = str(tmp_path / "nothing")
    with pytest.raises(ValueError, match="objective.teacher = .*nothing' cannot be opened: name the folder"):
        resolve(asked)


@pytest.mark.parametrize("smaller", [{"num_hidden_layers": 1}, {"hidden_size": 8, "intermediate_size": 12}])
def test_a_teacher_alone_distils_into_a_smaller_encoder(smaller, tmp_path):
    """`--teacher FOLDER` says it all: of the recipe's own teacher nothing is left, and the student opens as ever."""
    teacher = ViTModel(ViTConfig(image_size=8, patch_size=2, num_channels=1, **SIZES))
    teacher.save_pretrained(tmp_path / "teacher")
    path = write_recipe(tmp_path, "run", "vision-2", tmp_path, max_steps=2)
    fields = [f"--model.{name}={value}" for name, value in smaller.items()]
    assert main([str(path), "--teacher", str(tmp_path / "teacher"), *fields]) == 0
    whole = Data2Vec2VisionForPreTraining.from_pretrained(tmp_path / "run" / "pretraining")
    assert (whole.objective.target, whole.objective.ema_scope) == ("other_model", "frozen")
    same(whole.teacher.model.state_dict(), teacher.state_dict(), 0.0)
    student = AutoModel.from_pretrained(tmp_path / "run")
    for name, value in smaller.items():
        assert getattr(student.config, name) == value
    states = student(torch.randn(2, 1, 8, 8)).last_hidden_state
    assert states.shape == (2, 17, smaller.get("hidden_size", 16)) and states.isfinite().all()


def test_what_does_not_fit_is_refused():
    for fields, message in (
        ({"ema_scope": "blocks"}, "ema_scope = 'blocks': must be 'frozen'"),
        ({"target_tap": "ffn"}, "target_tap = 'ffn': must be 'end_of_block'"),
        ({"teacher_config": None}, "objective.teacher = null: must be the folder"),
        ({"target": "layers"}, "objective.target = 'layers': must be 'other_model'"),
        ({"top_k_layers": 5}, "top_k_layers = 5 is more than the encoder's num_hidden_layers = 4"),
    ):
        with pytest.raises(ValueError, match=message):
            taught(Data2Vec2VisionForPreTraining, **fields)
    model, _ = taught(Data2Vec2VisionForPreTraining)
    model.teacher.model = ViTModel(ViTConfig(image_size=(12, 20), patch_size=2, **SIZES))
    with pytest.raises(ValueError, match="makes 61 tokens of an input of which this model makes 15"):
        model(**inputs("vision"))


def test_a_shallow_teacher_runs_no_further_than_its_targets():
    fields = {"objective": CONFIGS["vision"]().objective | {"target_layers": [0, 1], "top_k_layers": 1}}
    model, run = build(Data2Vec2VisionForPreTraining, **fields), []
    for number, block in enumerate(model.teacher.encoder.layers):
        block.register_forward_hook(lambda *args, number=number: run.append(number))
    masked = torch.arange(15).expand(3, 2, -1) < 9
    shallow = model(**inputs("vision"), masked=masked)
    assert run == [0, 1]
    run.clear()
    deep = model(**inputs("vision"), masked=masked, output_teacher_layers=True)
    assert run == [0, 1, 2]
    same(shallow.all_targets, deep.all_targets, 0.0)
