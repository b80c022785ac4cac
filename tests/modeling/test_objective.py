"""The objective's configuration, targets, loss and teacher, each against something independent."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from data2vec.modeling import ObjectiveConfig
from data2vec.modeling.ema import copy_student, ema_update
from data2vec.modeling.loss import regression_loss, spread
from data2vec.modeling.targets import BlockFeatures, TopKAverage, normalize
from data2vec.pretraining.engine.schedules import tri_stage_factor
from data2vec.tests.reference import GOLDEN


BATCH, TIME, DIM = 3, 11, 5
SPAN = {"method": "span", "prob": 0.65, "length": 10}


def objective(**values) -> ObjectiveConfig:
    return ObjectiveConfig.from_dict({"masking": SPAN, "top_k_layers": 2, **values})


def layers(count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(BATCH, TIME, DIM, generator=generator) for _ in range(count)]


def average_top_k(stack, settings, real=None) -> torch.Tensor:
    """Every block's FFN output is a layer of the stack; the other features are not the tap."""
    targets = TopKAverage(settings, len(stack), real)
    for layer in stack:
        targets.add(BlockFeatures(-layer, layer, -layer, -layer))
    return targets.result()


FLOATS = ("loss_beta", "loss_scale", "cls_loss_weight", "mask_noise_std", "ema_decay", "ema_end_decay")


class TestConfig:
    def test_round_trip_through_json(self):
        before = objective(ema_decay=0.5, views=3)
        assert ObjectiveConfig.from_dict(json.loads(json.dumps(before.to_dict()))) == before

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"top_k_layer": 2}, ["objective.top_k_layer", "top_k_layers"]),
            ({"top_k_layers": 0}, ["top_k_layers", "0"]),
            ({"top_k_layers": "two"}, ["top_k_layers", "int"]),
            ({"target_tap": "fc"}, ["target_tap", "ffn"]),
            ({"ema_decay": 0.99, "ema_end_decay": 0.9}, ["ema_end_decay", "0.9"]),
            *[({name: value}, [name, str(value)]) for name in FLOATS for value in (-1, float("nan"), float("inf"))],
            ({"masking": {"method": "block", "prob": 0.5, "length": 2, "adjust": float("inf")}}, ["adjust", "inf"]),
            ({"views": 0}, ["views", "0"]),
            ({"masking": {"method": "span", "probability": 0.5}}, ["probability", "prob"]),
            ({"masking": {"method": "spans"}}, ["spans", "span"]),
        ],
    )
    def test_a_slip_is_named_with_its_fix(self, values, words):
        with pytest.raises(ValueError) as error:
            objective(**values)
        assert all(word in str(error.value) for word in words), str(error.value)

    def test_k_above_the_depth_is_refused(self):
        with pytest.raises(ValueError, match="top_k_layers = 2 .* num_hidden_layers = 1"):
            objective().check_model(1, ("blocks",))

    @pytest.mark.parametrize(("decay", "end", "steps"), [(0.999, 0.9999, 30_000)])
    def test_decay_schedule_of_the_original(self, decay, end, steps):
        table = json.loads((GOLDEN / "misc" / "meta.json").read_text())["ema_decay_v1_audio_0.999_0.9999_30000"]
        ours = objective(ema_decay=decay, ema_end_decay=end, ema_anneal_steps=steps)
        for step, value in table.items():
            assert ours.decay_at(int(step)) == pytest.approx(value, abs=1e-8)

    def test_learning_rate_of_the_original(self):
        table = json.loads((GOLDEN / "misc" / "meta.json").read_text())["lr.v1_audio_base(tri_stage)"]
        for step, value in table.items():
            assert 5e-4 * tri_stage_factor(int(step), 12_000, 360_000, 28_000) == pytest.approx(value, rel=1e-6)


class TestTargets:
    @pytest.mark.parametrize("kind", ["instance", "layer", "batch", "group"])
    def test_norms_are_torchs_own(self, kind):
        x = layers(1)[0]
        channels_first = x.transpose(1, 2)
        expected = {
            "instance": F.instance_norm(channels_first).transpose(1, 2),
            "layer": F.layer_norm(x, (DIM,)),
            "group": F.group_norm(channels_first, 1).transpose(1, 2),
            "batch": F.batch_norm(channels_first, None, None, training=True).transpose(1, 2),
        }[kind]
        torch.testing.assert_close(normalize(x, kind), expected, atol=1e-5, rtol=1e-5)

    def test_every_step_is_normalised_then_averaged_then_normalised(self):
        stack = layers()
        got = average_top_k(stack, objective(target_norm="layer"))
        expected = np.zeros((BATCH, TIME, DIM))
        for layer in stack[-2:]:
            for b in range(BATCH):
                for d in range(DIM):
                    series = layer[b, :, d].numpy().astype(float)
                    expected[b, :, d] += (series - series.mean()) / math.sqrt(series.var() + 1e-5) / 2
        for b in range(BATCH):
            for t in range(TIME):
                row = expected[b, t]
                expected[b, t] = (row - row.mean()) / math.sqrt(row.var() + 1e-5)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)

    def test_order_matters(self):
        stack = layers()
        averaged_first = normalize(torch.stack(stack[-2:]).mean(0), "instance")
        assert (average_top_k(stack, objective()) - averaged_first).abs().max() > 0.05

    @pytest.mark.parametrize("kind", ["instance", "layer", "batch", "group"])
    def test_padding_changes_nothing(self, kind):
        stack, length = layers(), 7
        real = torch.arange(TIME) < length
        padded = [layer * real[:, None] + 9 * ~real[:, None] for layer in stack]
        settings = objective(target_layer_norm=kind, target_norm=kind)
        got = average_top_k(padded, settings, real.expand(BATCH, TIME))[:, :length]
        alone = average_top_k([layer[:, :length] for layer in stack], settings)
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-5)

    def test_k_is_the_last_layers(self):
        stack = layers()
        one = average_top_k(stack, objective(top_k_layers=1))
        torch.testing.assert_close(one, normalize(stack[-1], "instance"))

    def test_half_precision_layers_are_averaged_in_fp32(self):
        assert average_top_k([layer.bfloat16() for layer in layers()], objective()).dtype == torch.float32

    def test_too_few_layers(self):
        with pytest.raises(ValueError, match="top_k_layers = 2"):
            average_top_k(layers(1), objective())


class TestLoss:
    @pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
    def test_against_the_formula(self, beta):
        p, t = layers(2)
        difference = (p - t).numpy().astype(float).ravel()
        if beta == 0:
            expected = (difference**2).sum()
        else:
            small = np.abs(difference) < beta
            expected = np.where(small, 0.5 * difference**2 / beta, np.abs(difference) - 0.5 * beta).sum()
        assert regression_loss(p, t, beta, 0.25).item() == pytest.approx(0.25 * expected, rel=1e-5)

    def test_spread(self):
        x = layers(1)[0]
        expected = np.sqrt(x.reshape(-1, DIM).numpy().var(axis=0, ddof=1) + 1e-6).mean()
        assert spread(x).item() == pytest.approx(expected, rel=1e-5)
        assert spread(torch.ones(7, DIM)).item() == pytest.approx(1e-3)
        assert spread(torch.ones(1, DIM)).isnan()


class TestTeacher:
    def pair(self):
        torch.manual_seed(0)
        return torch.nn.Linear(5, 3), torch.nn.Sequential(torch.nn.Linear(5, 3))[0]

    def test_average(self):
        teacher, student = self.pair()
        expected = {n: 0.9 * t + 0.1 * dict(student.named_parameters())[n] for n, t in teacher.named_parameters()}
        ema_update(teacher, student, 0.9)
        for name, tensor in teacher.named_parameters():
            torch.testing.assert_close(tensor, expected[name])

    def test_outside_the_scope_is_copied(self):
        teacher, student = self.pair()
        before = copy.deepcopy(teacher)
        ema_update(teacher, student, 0.9, averaged=("weight",))
        assert torch.equal(teacher.bias, student.bias)
        assert not torch.equal(teacher.weight, student.weight) and not torch.equal(teacher.weight, before.weight)

    def test_a_half_precision_student_moves_an_fp32_teacher(self):
        teacher, student = self.pair()
        student.bfloat16()
        copy_student(teacher, student)
        with torch.no_grad():
            student.weight += 1
        start = teacher.weight.clone()
        for _ in range(100):
            ema_update(teacher, student, 0.9999)
        assert teacher.weight.dtype == torch.float32
        assert ((teacher.weight - start) > 0).all()  # in bf16 it would not have moved

    def test_uninitialised_memory_does_not_survive_a_copy(self):
        teacher, student = self.pair()
        with torch.no_grad():
            teacher.weight.fill_(float("nan"))
        copy_student(teacher, student)
        assert torch.equal(teacher.weight, student.weight)

    def test_other_structures_are_refused(self):
        with pytest.raises(ValueError, match="structures differ"):
            ema_update(torch.nn.Linear(5, 3), torch.nn.Linear(5, 3, bias=False), 0.9)
