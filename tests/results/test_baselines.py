"""Masked reconstruction on the six systems: its targets, its loss, and runs that end in a folder as any other's."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from baselines import reconstruction_model_class
from torch import Tensor
from transformers import AutoModel, AutoModelForPreTraining, set_seed
from transformers.audio_utils import mel_filter_bank

from data2vec.pretraining import run
from data2vec.pretraining.arguments import Run, resolve
from data2vec.pretraining.checkpoints.resume import find_checkpoint
from data2vec.pretraining.evaluation.probe import teacher_encoder
from data2vec.tests.pretraining.tiny_runs import MODELS, recipe, write_sources


SYSTEMS = [name for name in MODELS if name.split("-")[0] in ("vision", "text", "audio")]  # of data2vec 1 and 2.0
HIGH, WIDE = 6, 10  # pixels, in patches of 2: a grid of 3 x 5
SAMPLES, SHORT = 4999, 3371  # of which the tiny front end makes 15 and 10 frames
FIELD, STRIDE = 340, 320  # samples that a frame hears, and between two frames


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_sources(folder)
    return folder


def asked(system: str, sources: Path, output: Path, **fields: Any) -> Run:
    plain = resolve(recipe(system, sources, output, **fields))
    return dataclasses.replace(plain, model_class=reconstruction_model_class(plain.model_class))


def build(system: str, tmp_path: Path, **objective: Any) -> Any:
    set_seed(0)
    numbers = recipe(system, tmp_path, tmp_path / "run")
    numbers["objective"] |= objective
    numbers["model"] |= {"layerdrop": 0.0} if system.startswith("audio") else {}
    plain = resolve(numbers)
    return reconstruction_model_class(plain.model_class)(plain.config)


def batch(system: str, model: Any) -> dict[str, Tensor]:
    """Three examples and their masks; in speech and text the last is padded."""
    rng = torch.Generator().manual_seed(1)
    modality, family = system.split("-")
    if modality == "vision":
        inputs, time = {"pixel_values": torch.randn(3, 1, HIGH, WIDE, generator=rng)}, 15
    elif modality == "audio":
        real = torch.arange(SAMPLES) < torch.tensor([SAMPLES, SAMPLES, SHORT])[:, None]
        waves = torch.randn(3, SAMPLES, generator=rng).masked_fill(~real, 0)
        inputs, time = {"input_values": waves, "attention_mask": real.long()}, model.num_frames(SAMPLES)
    else:
        real = torch.arange(13) < torch.tensor([13, 13, 11])[:, None]
        ids = torch.randint(5, 261, (3, 13), generator=rng).masked_fill(~real, model.config.pad_token_id)
        inputs, time = {"input_ids": ids, "attention_mask": real.long()}, 13
    views = () if family == "1" else (2,)
    masked = torch.rand(3, *views, time, generator=rng) < 0.4
    masked[..., 10:] = False  # the padding of the third
    masked[..., 0], masked[..., 1] = True, False
    return inputs | {"masked": masked}


def expected_pixels(images: Tensor, standardised: bool) -> Tensor:
    rows = []
    for image in images.double().numpy():
        cuts = [image[:, i : i + 2, j : j + 2].ravel() for i in range(0, HIGH, 2) for j in range(0, WIDE, 2)]
        rows.append([(cut - cut.mean()) / np.sqrt(cut.var() + 1e-5) if standardised else cut for cut in cuts])
    return torch.tensor(np.array(rows)).float()


def expected_mels(wave: np.ndarray) -> Tensor:
    """One clip without padding, frame by frame: 25 ms around the middle of what the frame hears."""
    bank = mel_filter_bank(201, 40, 20.0, 8000.0, 16000, norm=None, mel_scale="htk")
    rows = []
    for frame in range((len(wave) - FIELD) // STRIDE + 1):
        middle = frame * STRIDE + FIELD // 2
        heard = np.array([wave[i] if 0 <= i < len(wave) else 0.0 for i in range(middle - 200, middle + 200)])
        power = np.abs(np.fft.rfft(heard * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)))) ** 2
        rows.append(np.log(bank.T @ power + 1e-6))
    mels = np.array(rows)
    return torch.tensor((mels - mels.mean(0)) / np.sqrt(mels.var(0) + 1e-5)).float()


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_targets_are_the_input(system: str, tmp_path: Path) -> None:
    model = build(system, tmp_path).eval()
    inputs = batch(system, model)
    found = model(**inputs).all_targets
    if "pixel_values" in inputs:
        expected = expected_pixels(inputs["pixel_values"], standardised=system == "vision-2")
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    elif "input_ids" in inputs:
        assert torch.equal(found, inputs["input_ids"].unsqueeze(-1).float())
    else:
        for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            expected = expected_mels(inputs["input_values"][row, :length].double().numpy())
            assert len(expected) == model.num_frames(length)
            torch.testing.assert_close(found[row, : len(expected)], expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_is_taken_where_masked(system: str, tmp_path: Path) -> None:
    model = build(system, tmp_path).eval()
    inputs = batch(system, model)
    masked = inputs["masked"]
    torch.manual_seed(2)
    output = model(**inputs)
    rows = [output.all_targets[place[0], place[-1]] for place in masked.nonzero().tolist()]
    assert torch.equal(output.targets, torch.stack(rows))
    total = 0.0
    for prediction, target in zip(output.predictions.detach().double(), output.targets.double(), strict=True):
        if system.startswith("text"):
            total += float(prediction.exp().sum().log() - prediction[int(target)])
        else:
            total += float((prediction - target).square().mean())
    assert output.loss.item() == pytest.approx(total / int(masked.sum()), rel=1e-4)
    torch.manual_seed(2)
    assert model(**inputs, num_items_in_batch=7).loss.item() == pytest.approx(total / 7, rel=1e-4)


# neighbouring frames of speech overlap, so that a hidden one is heard in part
@pytest.mark.parametrize("system", [system for system in SYSTEMS if not system.startswith("audio")])
def test_what_is_hidden_is_not_seen(system: str, tmp_path: Path) -> None:
    """Other input at the hidden positions: other targets, the same predictions."""
    model = build(system, tmp_path).eval()
    inputs = batch(system, model)
    if system.endswith("2"):
        inputs["masked"] = inputs["masked"][:, :1]
    changed = dict(inputs)
    hidden = inputs["masked"].view(3, -1)
    if "pixel_values" in inputs:
        pixels = hidden.view(3, 1, HIGH // 2, WIDE // 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        other = torch.arange(HIGH * WIDE).view(1, 1, HIGH, WIDE) % 7.0
        changed["pixel_values"] = torch.where(pixels, other, inputs["pixel_values"])
    else:
        changed["input_ids"] = torch.where(hidden, 4 + inputs["input_ids"] % 7, inputs["input_ids"])
    outputs = []
    for each in (inputs, changed):
        torch.manual_seed(3)
        outputs.append(model(**each))
    assert torch.equal(outputs[0].predictions, outputs[1].predictions)
    assert not torch.equal(outputs[0].targets, outputs[1].targets)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_gradient_reaches_the_whole_encoder(system: str, tmp_path: Path) -> None:
    model = build(system, tmp_path)
    model(**batch(system, model)).loss.backward()
    unreached = {name for name, weight in model.base_model.named_parameters() if weight.grad is None}
    # read by nothing that is compared, with a teacher as well
    assert unreached <= {"embeddings.token_type_embeddings.weight", "layernorm.weight", "layernorm.bias"}, unreached
    matrices = {name: weight.grad for name, weight in model.base_model.named_parameters() if weight.ndim > 1}
    assert all(grad.any() for name, grad in matrices.items() if name not in unreached)


@pytest.mark.parametrize("system", SYSTEMS)
def test_there_is_no_teacher_and_the_encoder_starts_from_the_same_weights(system: str, tmp_path: Path) -> None:
    baseline = build(system, tmp_path)
    assert not list(baseline.teacher.state_dict())
    data2vec = next(base for base in type(baseline).__mro__ if base.__module__.startswith("data2vec."))
    set_seed(0)
    weights = data2vec(baseline.config).base_model.state_dict()
    assert weights.keys() == baseline.base_model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in baseline.base_model.state_dict().items())


def test_there_is_no_loss_of_the_whole_sample(tmp_path: Path) -> None:
    """Data2vec 2.0's loss of the class token compares with a mean of targets, which means nothing of an input."""
    numbers = recipe("vision-2", tmp_path, tmp_path / "run")
    numbers["objective"]["cls_loss_weight"] = 2.56
    numbers["model"]["num_extra_tokens"] = 1
    plain = resolve(numbers)
    model = reconstruction_model_class(plain.model_class)(plain.config).eval()
    output = model(**batch("vision-2", model))
    assert output.cls_targets is None
    assert output.loss.item() == pytest.approx((output.predictions - output.targets).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_ends_in_a_folder_as_any_other(system: str, sources: Path, tmp_path: Path) -> None:
    whole = asked(system, sources, tmp_path / "whole", learning_rate=5e-3)
    set_seed(0)
    assert run.pretrain(whole, run.open_data(whole), None) == 0
    encoder, info = AutoModel.from_pretrained(whole.folder, output_loading_info=True)
    assert not info["unexpected_keys"] and not {key for key in info["missing_keys"] if "pooler" not in key}
    log = json.loads((whole.folder / "trainer_state.json").read_text())["log_history"]
    spreads = [row for row in log if "target_std" in row]
    assert spreads and all(math.isfinite(row["loss"]) and row["target_std"] > 0.1 for row in spreads)

    trained = whole.model_class.from_pretrained(whole.folder / "pretraining")
    teacher = teacher_encoder(trained).state_dict()
    for name, tensor in trained.base_model.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor)
        assert torch.equal(teacher[name], tensor)  # its probes are the student's


def test_a_run_that_was_interrupted_continues_exactly(sources: Path, tmp_path: Path) -> None:
    results = []
    for name, stops in (("whole", (8,)), ("halves", (4, 8))):
        for steps in stops:
            part = asked("vision-2", sources, tmp_path / name, max_steps=8)
            part.training.max_steps = steps
            part.training.lr_scheduler_type = "constant"
            set_seed(0)
            assert run.pretrain(part, run.open_data(part), find_checkpoint(part.training)) == 0
        results.append(AutoModel.from_pretrained(tmp_path / name).state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_the_folder_of_the_whole_is_not_taken_for_one_with_a_teacher(sources: Path, tmp_path: Path) -> None:
    part = asked("vision-1", sources, tmp_path / "run")
    set_seed(0)
    assert run.pretrain(part, run.open_data(part), None) == 0
    with pytest.raises(RuntimeError, match="mismatched"):
        AutoModelForPreTraining.from_pretrained(part.folder / "pretraining")
