"""Several streams on one clock: who reads what, fusion of what is there, and what is hidden in which stream."""

import copy
import json
import subprocess

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, BertConfig, SpeechEncoderDecoderModel

from data2vec import modeling
from data2vec.modeling import (
    AvData2VecForPreTraining,
    AvData2VecModel,
    SvData2VecConfig,
    SvData2VecForPreTraining,
    SvData2VecModel,
)
from data2vec.modeling.configuration_streams import StreamsObjectiveConfig
from data2vec.modeling.gather import count_masks
from data2vec.modeling.masking import mask_seeds
from data2vec.modeling.streams import ConcatFusion, MeanFusion
from tests.modeling.test_data2vec2 import ELSEWHERE
from tests.modeling.tiny_data2vec2 import main_output, same
from tests.modeling.tiny_streams import MODELS, av_config, build, inputs, sv_config
from tests.warm import warm_python


NAMES = ("audio", "video")
HALF = {"method": "random", "prob": 0.5}
ENCODERS = [c for c in MODELS if "ForPreTraining" not in c.__name__]
PRETRAINING = [c for c in MODELS if "ForPreTraining" in c.__name__]
EACH = pytest.mark.parametrize("model_class", ENCODERS, ids=lambda c: c.__name__)
TRAINED = pytest.mark.parametrize("model_class", PRETRAINING, ids=lambda c: c.__name__)


def numbers(**fields):
    return StreamsObjectiveConfig.from_dict({"masking": HALF, **fields})


def draw(objective, rows=2000, time=12, step=0, real=None, seed=0):
    seeds = mask_seeds(seed, 3, range(rows), 1)
    masked = objective.draw_masks((time,), seeds, maskable=real)
    return masked, objective.draw_streams(NAMES, masked, real, seeds[:, 0], step)


# Schedules


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (50, 0.625), (100, 0.25), (1000, 0.25)])
def test_probabilities_move_with_the_step(step, share):
    objective = numbers(
        student_streams={"audio+video": [1.0, 0.25], "video": [0.0, 0.75]},
        teacher_streams={"audio": [1.0, 1.0]},
        streams_anneal_steps=100,
    )
    _, drawn = draw(objective, step=step)
    sets = drawn.student_streams.any(1)  # (rows, streams)
    assert sets[:, 1].all() and drawn.teacher_streams[:, 0].tolist() == [[True, False]] * 2000
    assert sets[:, 0].double().mean().item() == pytest.approx(share, abs=0.04)


def test_a_sample_draws_the_same_whatever_is_around_it():
    """From its seed and the step alone, so that resuming, ranks and workers change nothing."""
    fields = {
        "student_streams": {"audio": [0.5, 0.2], "video": [0.5, 0.8]},
        "teacher_streams": {"audio": [0.3, 0.3], "video": [0.7, 0.7]},
    }
    objective = numbers(**fields, nested_masking={"video": 0.5}, streams_anneal_steps=10)
    masked, many = draw(objective, rows=64, step=4)
    seeds = mask_seeds(0, 3, [17], 1)
    alone = objective.draw_streams(NAMES, masked[17:18], None, seeds[:, 0], 4)
    for together, single in zip(many, alone, strict=True):
        assert torch.equal(together[17:18], single)
    again = [draw(objective, rows=64, step=4, seed=seed)[1].student_streams.any(1) for seed in (0, 1)]
    assert torch.equal(again[0], many.student_streams.any(1)) and not torch.equal(*again)
    student, teacher = many.student_streams.any(1)[:, 0], many.teacher_streams[:, 0, 0]
    assert 0 < (student & ~teacher).sum() and 0 < (student & teacher).sum()  # drawn apart


def test_nothing_said_is_everything():
    masked, drawn = draw(numbers())
    assert torch.equal(drawn.student_streams, (~masked).unsqueeze(-1).expand(-1, -1, 2))
    assert drawn.teacher_streams.all() and torch.equal(drawn.scored, masked)


# Masks


def test_masks_are_nested():
    """What is hidden in all streams is hidden in each; more in one of them, an exact count among the rest."""
    masked, drawn = draw(numbers(nested_masking={"video": 0.75}), time=40)
    hidden = ~drawn.student_streams
    assert torch.equal(hidden[..., 0], masked) and (hidden[..., 1] | ~masked).all()
    assert hidden[..., 1].sum(1).tolist() == [20 + 15] * 2000
    assert torch.equal(drawn.scored, hidden[..., 1])
    share = (hidden[..., 1] & ~masked).double().mean(0)
    assert (share - 15 / 40).abs().max() < 0.06  # any frame


def test_published_counts():
    """13 of 40 frames are seen, and of the skeletons 3 of these; the loss is taken at the other 37."""
    objective = StreamsObjectiveConfig.from_dict(SvData2VecConfig().objective)
    seeds = mask_seeds(0, 0, range(5), 1)
    masked = objective.draw_masks((40,), seeds)
    drawn = objective.draw_streams(("video", "skeleton"), masked, None, seeds[:, 0], 0)
    assert drawn.student_streams.sum(1).tolist() == [[13, 3]] * 5 and drawn.scored.sum(1).tolist() == [37] * 5
    assert drawn.teacher_streams[:, 0].tolist() == [[False, True]] * 5


def test_visible_tokens_are_scored_with_some_streams():
    fields = {"student_streams": {"audio+video": [0.5, 0.5], "video": [0.5, 0.5]}, "score_visible": {"video": 0.3}}
    real = torch.arange(12) < torch.tensor([12, 7] * 1000).unsqueeze(1)
    masked, drawn = draw(numbers(**fields), real=real)
    video_only = ~drawn.student_streams.any(1)[:, 0]
    assert 0.4 < video_only.double().mean() < 0.6
    assert torch.equal(drawn.scored[video_only], real[video_only])
    assert torch.equal(drawn.scored[~video_only], masked[~video_only])
    assert not (drawn.student_streams & ~real.unsqueeze(-1)).any()
    expected = masked.float().masked_fill(real & ~masked & video_only.unsqueeze(1), 0.3)
    assert torch.equal(drawn.score_weights, expected)


def test_visible_tokens_count_what_their_weight_says():
    batch, masked = inputs("av", padded=True), torch.zeros(3, 11, dtype=torch.bool)
    masked[:, 2:6] = True
    objective = av_config().objective | {"student_streams": {"video": [1.0, 1.0]}, "score_visible": {"video": 0.3}}
    for beta in (0.0, 0.5):
        model = build(AvData2VecForPreTraining, objective=objective | {"loss_beta": beta})
        output = model(**batch, masked=masked, stream_seeds=torch.arange(3))
        real = batch["attention_mask"].bool()
        weights = torch.where(masked, 1.0, 0.3)[real]
        error = output.predictions - output.targets
        losses = (
            error.square()
            if beta == 0
            else F.smooth_l1_loss(output.predictions, output.targets, reduction="none", beta=beta)
        )
        expected = (losses.sum(1) * weights).sum() * model.objective.scale_for(24) / int(real.sum())
        torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("score_visible", {"video": 0.0}),
        ("student_streams", {"audio": [0.5, 0.5]}),
        ("student_streams", {"audio": [0.5, 1.0], "video": [0.6, 0.0]}),
        ("teacher_streams", {"audio": [1.0]}),
        ("teacher_streams", {"audio": [1.5, 1.0], "video": [-0.5, 0.0]}),
        ("streams_anneal_steps", -1),
        ("nested_masking", {"video": 1.0}),
        ("views", 4),
    ],
)
def test_wrong_numbers_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"objective\.{field} = "):
        numbers(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("student_streams", {"video+sound": [1.0, 1.0]}),
        ("teacher_streams", {"skeletton": [1.0, 1.0]}),
        ("nested_masking", {"pose": 0.5}),
        ("score_visible", {"rgb": 1.0}),
    ],
)
def test_unknown_streams_are_refused(field, value):
    objective = sv_config().objective | {field: value}
    with pytest.raises(ValueError, match=rf"objective\.{field} names the stream '\w+': must be video or skeleton"):
        SvData2VecForPreTraining(sv_config(objective=objective))


# Fusion


def test_fusions_are_what_they_say():
    config, values = sv_config(), [torch.randn(2, 5, 24), torch.randn(2, 5, 24)]
    present = torch.rand(2, 5, 2) < 0.5
    present[0, 0], present[1, 1], present[1, 2] = False, True, torch.tensor([True, False])
    filled = [value.masked_fill(~present[..., n : n + 1], 0) for n, value in enumerate(values)]
    mean = MeanFusion(config, 2)(filled, present)
    same(mean[1, 1], (values[0][1, 1] + values[1][1, 1]) / 2)
    same(mean[1, 2], values[0][1, 2])
    assert not mean[0, 0].any()
    joined = ConcatFusion(config, 2)
    expected = F.linear(F.layer_norm(torch.cat(filled, -1), (48,)), joined.projection.weight, joined.projection.bias)
    same(joined(filled, present), expected)


@EACH
def test_every_absent_stream_is_the_same_as_not_given(model_class):
    """Left out of the call, left out of a sample, or of another sample: features of what is there, and finite."""
    model, batch = build(model_class), inputs(MODELS[model_class])
    names = list(batch)
    both = main_output(model(**batch))
    for number, name in enumerate(names):
        alone = main_output(model(**{name: batch[name]}))
        assert alone.isfinite().all() and not torch.allclose(alone, both, atol=1e-3)
        some = torch.ones(3, len(names), dtype=torch.long)
        some[1] = 0
        some[1, number] = 1
        mixed = main_output(model(**batch, stream_mask=some))
        same(mixed[1], alone[1])
        same(mixed[[0, 2]], both[[0, 2]])
        broken = {n: values.clone() for n, values in batch.items()}
        for other in names:
            if other != name:
                broken[other][1] = float("nan")
        same(main_output(model(**broken, stream_mask=some))[1], alone[1])


@EACH
def test_padding_changes_nothing_whichever_stream_is_there(model_class):
    model, batch = build(model_class), inputs(MODELS[model_class], padded=True)
    mask = batch.pop("attention_mask")
    for names in (list(batch), *([name] for name in batch)):
        padded = main_output(model(**{name: batch[name] for name in names}, attention_mask=mask))
        alone = main_output(model(**{name: batch[name][1:2, :7] for name in names}))
        same(padded[1:2, :7] if padded.dim() == 3 else padded[1:2], alone)


def test_wrong_streams_are_refused():
    model, batch = build(SvData2VecModel), inputs("sv")
    with pytest.raises(ValueError, match=r"All streams must have the same rows and frames.*\(3, 10\) and \(3, 11\)"):
        model(batch["pixel_values"], batch["keypoint_values"][:, :10])
    with pytest.raises(ValueError, match="none is given"):
        model()
    with pytest.raises(ValueError, match=r"stream_mask has shape \(3, 3\): pass \(3, 2\)"):
        model(**batch, stream_mask=torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"keypoint_values has shape .* 1 persons, 5 joints"):
        model(keypoint_values=batch["keypoint_values"][:, :, :, :4])
    with pytest.raises(ValueError, match="The input has 14 tokens: at most max_position_embeddings = 13"):
        model(keypoint_values=torch.zeros(1, 14, 1, 5, 2))


# Pretraining


@TRAINED
def test_student_and_teacher_read_their_own_streams(model_class):
    """What the teacher does not read changes no target, what the student does not read no prediction."""
    kind = MODELS[model_class]
    model, batch = build(model_class), inputs(kind)
    first, second = list(batch)
    masked = torch.zeros(3, 11, dtype=torch.bool)
    masked[:, 4:8] = True
    only = torch.zeros(3, 1, 2, dtype=torch.bool)
    how = {"masked": masked, "student_streams": only.clone(), "teacher_streams": only.clone(), "scored": masked}
    how["student_streams"][..., 0] = how["teacher_streams"][..., 1] = True
    plain = model(**batch, **how)
    other = model(**batch | {second: batch[second] + 1}, **how)
    same(other.predictions, plain.predictions)
    assert not torch.allclose(other.targets, plain.targets, atol=1e-3)
    other = model(**batch | {first: batch[first] + 1}, **how)
    same(other.targets, plain.targets)
    assert not torch.allclose(other.predictions, plain.predictions, atol=1e-3)


@TRAINED
def test_a_batch_is_completed_for_its_update(model_class):
    """What the collator leaves open is drawn from the batch's seeds and the step, and counted."""
    kind = MODELS[model_class]
    names = tuple(model_class(build(model_class).config).config.streams)
    schedule = {"student_streams": {"+".join(names): [1.0, 0.0], names[0]: [0.0, 1.0]}, "streams_anneal_steps": 10}
    objective = copy.deepcopy(build(model_class).config.objective) | schedule
    model, batch = build(model_class, objective=objective), inputs(kind, padded=True)
    seeds = mask_seeds(0, 0, [0, 1, 2], 1)
    masked = model.objective.draw_masks((11,), seeds, torch.tensor([11, 7, 11]))
    batch |= {"masked": masked, "stream_seeds": seeds[:, 0]}
    early, late, evaluated = model.at_step(batch, 0), model.at_step(batch, 10), model.at_step(batch, None)
    assert early["student_streams"].any(1).all() and not late["student_streams"][..., 1].any()
    assert all(torch.equal(late[name], evaluated[name]) for name in ("student_streams", "teacher_streams", "scored"))
    real = batch["attention_mask"].bool()
    assert early["mask_counts"] == tuple(count_masks(masked, real, early["scored"]))
    completed = model(**early)
    assert completed.predictions.shape[0] == int(early["scored"].sum())
    same(model(**batch).loss, completed.loss)  # by itself the model draws as at the first step
    assert model.at_step({"masked": masked}, 0) == {"masked": masked}


@TRAINED
def test_an_absent_stream_still_has_a_gradient(model_class):
    """Zero, not none: all ranks then agree on which parameters are averaged."""
    model, batch = build(model_class).train(), inputs(MODELS[model_class])
    streams = torch.tensor([True, False]).expand(3, 1, 2)
    model(**batch, student_streams=streams, teacher_streams=~streams).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


# Where the package is not


@TRAINED
def test_folder_works_where_the_package_is_not(model_class, tmp_path):
    model, batch = build(model_class), inputs(MODELS[model_class])
    model.save_pretrained(tmp_path)
    getattr(modeling, model.config.auto_map["AutoFeatureExtractor"].split(".")[1])().save_pretrained(tmp_path)
    save_file(batch, tmp_path / "inputs.safetensors")
    torch.manual_seed(2)
    loss = model(**batch).loss.item()
    result = subprocess.run([warm_python(), "-P", "-c", ELSEWHERE, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    answer = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    assert answer["loss"] == pytest.approx(loss, rel=1e-5) == answer["again"]
    assert answer["AutoModel"][1:] == answer["AutoModelForPreTraining"][1:] == [[], []]


def test_transformers_puts_a_decoder_behind_the_encoder(tmp_path):
    """`SpeechEncoderDecoderModel`: its loss, its file, and what it generates of both streams or of one."""
    words = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    config = BertConfig(**words, intermediate_size=40, is_decoder=True, add_cross_attention=True)
    encoder = build(AvData2VecModel)
    model = SpeechEncoderDecoderModel(encoder=encoder, decoder=AutoModelForCausalLM.from_config(config)).eval()
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0
    model.generation_config.update(decoder_start_token_id=1, pad_token_id=0, eos_token_id=2)
    batch, labels = inputs("av", padded=True), torch.randint(3, 31, (3, 5))
    loss = model(**batch, labels=labels).loss
    states = encoder(**batch).last_hidden_state
    real = {"encoder_attention_mask": batch["attention_mask"]}
    shifted = torch.cat((torch.ones(3, 1, dtype=torch.long), labels[:, :-1]), 1)
    logits = model.decoder(shifted, encoder_hidden_states=states, **real).logits
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    model.save_pretrained(tmp_path)
    again = SpeechEncoderDecoderModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch, labels=labels).loss, loss)

    mask = torch.tensor([[0, 1]] * 3)  # the video alone
    seen = encoder(pixel_values=batch["pixel_values"], attention_mask=batch["attention_mask"])
    said = model.generate(batch.pop("input_features"), **batch, stream_mask=mask, max_new_tokens=4)
    asked = model.generate(encoder_outputs=seen, attention_mask=batch["attention_mask"], max_new_tokens=4)
    assert torch.equal(said, asked)
