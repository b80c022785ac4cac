"""emotion2vec against its own inference code, and steps of fairseq's optimizer; full cases, not in a clone."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForPreTraining

from data2vec.modeling.attention import Alibi, alibi_bias
from data2vec.modeling.convert.command import main
from data2vec.modeling.targets import mean_over_time
from tests.modeling.test_parity_data2vec2 import close, inputs_of, load, masks_of, ours
from tests.reference import REFERENCE, cases, part


ABSENT = "needs ../shared/reference/{}: full cases of the original code, which are not part of the package"
CLIPS = range(3)


def full(pattern: str) -> Any:
    """Names of the full cases, one that is skipped with the reason where there is none."""
    names = [name for name in cases(pattern) if (REFERENCE / name).is_dir()]
    skipped = pytest.param(pattern, marks=pytest.mark.skip(reason=ABSENT.format(pattern)))
    return names or [skipped]


@pytest.fixture(scope="module", params=full("emotion2vec_[a-z]"))
def inference(request, tmp_path_factory):
    """The converted encoder and classifier, and what the original computes."""
    case, folder = REFERENCE / request.param, tmp_path_factory.mktemp(request.param)
    for name in ("checkpoint", "plus_layout"):
        assert main([str(case / f"{name}.pt"), str(folder / name)]) == 0
    encoder = AutoModel.from_pretrained(folder / "checkpoint").eval()
    classifier = AutoModelForAudioClassification.from_pretrained(folder / "plus_layout").eval()
    return folder, encoder, classifier, load_file(case / "io.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("clip", CLIPS)
def test_a_clip_gives_the_originals_frames_layers_and_scores(inference, clip):
    _, encoder, classifier, io = inference
    golden, extra = part(io, f"clip.{clip}."), encoder.config.num_extra_tokens
    taps: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: taps.append(call[-1][1])) for block in encoder.encoder.layers]
    hidden = encoder(golden["source"][None]).last_hidden_state[0]
    for hook in hooks:
        hook.remove()
    close(hidden, golden["x_with_extra_tokens"], "outputs")
    close(hidden[extra:], golden["frame"], "frames")
    close(hidden[extra:].mean(0), golden["utterance"], "utterance")
    assert len(taps) == encoder.config.num_hidden_layers
    for number, tap in enumerate(taps):
        close(tap[0], golden[f"layer_result.{number}"], f"layer {number}")
    logits = classifier(golden["source"][None]).logits[0]
    close(logits, golden["logits"], "logits")
    close(logits.softmax(-1), golden["scores"], "scores")


@torch.no_grad()
def test_a_padded_batch_gives_what_each_clip_gives_alone(inference):
    folder, encoder, classifier, io = inference
    inputs, extra = inputs_of(encoder, io), encoder.config.num_extra_tokens
    frames = encoder(**inputs).last_hidden_state[:, extra:]
    real = encoder.real_tokens(inputs["attention_mask"], frames.shape[1])
    assert torch.equal(real, ~io["feat.padding_mask"])
    for clip in CLIPS:
        close(frames[clip, real[clip]], io[f"clip.{clip}.frame"], f"frames of clip {clip}")
        close(mean_over_time(frames, real)[clip], io[f"clip.{clip}.utterance"], f"utterance of clip {clip}")
    close(classifier(**inputs).logits, torch.stack([io[f"clip.{clip}.logits"] for clip in CLIPS]), "logits")
    # as the original, where padding leaks into the frames beside it
    objective = {**encoder.config.objective, "original_padding": True}
    leaking = AutoModel.from_pretrained(folder / "checkpoint", objective=objective).eval()
    frames = leaking(**inputs).last_hidden_state[:, extra:]
    close(frames, io["feat.x"], "frames with the original's padding")
    close(mean_over_time(frames, real), io["feat.utterance_masked_mean"], "utterances with the original's padding")


def test_alibi_of_its_heads_and_a_negative_scale(inference):
    _, encoder, _, io = inference
    heads, time = len(io["alibi.bias"]), io["alibi.bias"].shape[-1]
    bias = alibi_bias(*Alibi(heads)(torch.arange(time).unsqueeze(0), extra=0))
    close(bias[0], io["alibi.bias"], "ALiBi")
    scale = encoder.encoder.alibi.scale.detach()
    assert (scale < 0).any(), "of one head, on purpose"
    learned = alibi_bias(*encoder.encoder.alibi(torch.arange(time).unsqueeze(0), extra=2))[0].detach()
    close(learned[:, 2:, 2:], io["alibi.bias"] * scale.clamp_min(0)[:, None, None], "scaled ALiBi")
    assert not learned[:, :2].any() and not learned[:, :, :2].any(), "utterance tokens have no distance"


def test_labels_of_a_file_and_those_that_stand_for_nothing(tmp_path, inference, capsys):
    _, _, classifier, io = inference
    assert list(classifier.config.id2label.values()) == [
        "angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown",
    ]  # fmt: skip
    case = next(REFERENCE / name for name in cases("emotion2vec_[a-z]"))
    labels = json.loads((case / "config.json").read_text(encoding="utf-8"))["labels"]
    labels[5] = "unuse_0"
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(labels) + "\n", encoding="utf-8")
    assert main([str(case / "plus_layout.pt"), str(tmp_path / "out"), "--dict", str(file)]) == 0
    fewer = AutoModelForAudioClassification.from_pretrained(tmp_path / "out").eval()
    names = list(fewer.config.id2label.values())
    assert names == ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised", "unknown"]
    with torch.no_grad():
        scores = fewer(io["clip.0.source"][None]).logits[0].softmax(-1)
    kept = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8])
    close(scores, io["clip.0.logits"][kept].softmax(-1), "scores of the labels that are used")
    file.write_text("happy\nsad\n", encoding="utf-8")
    assert main([str(case / "plus_layout.pt"), str(tmp_path / "wrong"), "--dict", str(file)]) == 2
    assert "has 2 labels, the checkpoint 9" in capsys.readouterr().err


# ---- training: the case's checkpoint, its Adam and its EMA ----


def adam(parameter: Tensor, gradient: Tensor, state: dict, lr: float, options: dict) -> Tensor:
    """One step of fairseq's, which adds epsilon before the bias correction."""
    beta1, beta2 = options["adam_betas"]
    step = state["step"] + 1
    mean = beta1 * state["exp_avg"] + (1 - beta1) * gradient
    square = beta2 * state["exp_avg_sq"] + (1 - beta2) * gradient.square()
    size = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
    return parameter * (1 - options["weight_decay"] * lr) - size * mean / (square.sqrt() + options["adam_eps"])


@pytest.mark.parametrize("name", full("emotion2vec_train_*"))
def test_two_training_steps_equal_the_original(name):
    kind, model, config, io, weights = load(name)
    steps = load_file(REFERENCE / name / "step.safetensors")
    optimizer = torch.load(REFERENCE / name / "checkpoint.pt", weights_only=True)["last_optimizer_state"]
    names = [key for key in weights if not key.startswith("_ema.")]
    states = {key: optimizer["state"][number] for number, key in enumerate(names)}
    drawn = {"in.mask_noise": steps["step.mask_noise"]} if "step.mask_noise" in steps else {}  # for this step
    masks = masks_of(model, io | drawn)
    out = model.train()(**inputs_of(model, io), **masks)
    out.loss.backward()  # of the mean over masked positions
    mine = dict(model.named_parameters())
    gradients = {key: parameter.grad for key, parameter in mine.items() if parameter.requires_grad}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert norm.item() == pytest.approx(float(steps["step.gnorm"]), rel=1e-4)
    clip = config["cfg"]["optimization"]["clip_norm"]
    factor = min(1.0, clip / (float(norm) + 1e-6)) if clip else 1.0
    before, after = ours(weights, kind), ours(part(steps, "param."), kind)
    moments = {
        name: ours({key: state[name] for key, state in states.items()}, kind) for name in ("exp_avg", "exp_avg_sq")
    }
    step = int(next(iter(states.values()))["step"])
    for key, gradient in gradients.items():
        state = {"step": step} | {moment: tensors[key] for moment, tensors in moments.items()}
        moved = adam(before[key], gradient * factor, state, float(steps["step.lr"]), config["cfg"]["optimizer"])
        close(moved, after[key], f"{key} after a step")
        mine[key].data.copy_(after[key])
    teacher = {f"teacher.{key}": tensor for key, tensor in model.teacher.state_dict().items()}
    for key, tensor in ours({f"_ema.{n}": t for n, t in part(steps, "ema.").items()}, kind).items():
        close(teacher[key], tensor, f"{key}, which has not moved yet")
    model.update_teacher(float(steps["step2.decay"]))
    for key, tensor in ours({f"_ema.{n}": t for n, t in part(steps, "step2.ema.").items()}, kind).items():
        close(dict(model.named_parameters())[key], tensor, f"{key} after the step")


@pytest.mark.parametrize("name", cases("emotion2vec_train_*"))
def test_a_training_checkpoint_converts_with_its_teacher(name, tmp_path, capsys):
    from tests.reference import folder_of

    assert main([str(folder_of(name) / "checkpoint.pt"), str(tmp_path / "out")]) == 0
    _, expected, original, io, _ = load(name)
    weight = original["cfg"]["model"]["cls_loss"]
    assert f"cls_loss_weight = {weight:g}: the checkpoint's cls_loss" in capsys.readouterr().out
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    assert type(model) is type(expected) and model.objective.cls_pooling == "tokens"
    out = model(**inputs_of(model, io), **masks_of(model, io))
    close(out.predictions, io["reg.x"], "predictions")
    close(out.targets, io["reg.y"], "targets")
    close(out.cls_predictions, io["cls.x"], "utterance predictions")
    assert main([str(tmp_path / "out"), str(tmp_path / "back.pt"), "--to-fairseq"]) == 0
    assert main([str(tmp_path / "back.pt"), str(tmp_path / "again")]) == 0
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "again")
    same = {key: torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items()}
    assert all(same.values()) and again.config.objective == model.config.objective
