"""What makes a step fast changes nothing else: layouts, precision, counts from the loader."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from data2vec.modeling import Data2VecAudioForPreTraining
from data2vec.modeling.conv import ChannelsLastConv1d, convolve, set_channels_last
from data2vec.modeling.gather import count_masks
from tests.modeling import test_data2vec as v1
from tests.modeling import tiny_data2vec2 as v2
from tests.modeling.tiny_data2vec2 import same


def quiet(kind: str) -> dict:
    """No dropout in data2vec 1."""
    return {
        "audio": dict.fromkeys(
            ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop", "feat_proj_dropout"), 0.0
        ),
        "text": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "vision": {"drop_path_rate": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    }[kind]


def build(family: str, kind: str):
    torch.manual_seed(0)
    if family == "1":
        return v1.moved(v1.build(kind, **quiet(kind))).train()
    objective = copy.deepcopy(v2.CONFIGS[kind]().objective)
    objective["decoder"]["input_dropout"] = 0.0
    return v2.build(v2.PRETRAINING[kind], objective=objective).train()


def batch_of(family: str, kind: str) -> dict:
    if family == "1":
        return v1.inputs(kind)
    batch = v2.inputs(kind)
    time = {"audio": 30, "vision": 15, "text": 19}[kind]
    order = torch.rand(3, 2, time, generator=torch.Generator().manual_seed(5)).argsort(-1)
    masked = order < time // 2  # as many in every row
    noise = 0.01 * torch.randn(3, 2, time, 24, generator=torch.Generator().manual_seed(6))
    return batch | {"masked": masked, "mask_noise": noise}


def step(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


EVERY = [(family, kind) for family in ("1", "2.0") for kind in ("audio", "text", "vision")]
ALL = pytest.mark.parametrize(("family", "kind"), EVERY)


# Layouts


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "padding", "groups"),
    [
        (1, 6, 5, 3, 0, 1),
        (4, 6, 3, 2, 0, 1),
        (4, 6, 2, 2, 0, 1),
        (4, 6, 7, 2, 0, 1),
        (6, 9, 5, 1, 2, 3),
        (6, 6, 4, 1, 2, 2),
    ],
)
def test_convolution_of_tokens_is_torchs(channels, out, kernel, stride, padding, groups, bias):
    """In every one of its ways; lengths that a stride does not divide included."""
    torch.manual_seed(0)
    stock = torch.nn.Conv1d(channels, out, kernel, stride, padding, groups=groups, bias=bias)
    for time in (23, 24, kernel):
        planes = torch.randn(3, channels, time, requires_grad=True)
        numbers = (stock.weight, stock.bias, stride, padding, groups)
        tokens = convolve(planes.transpose(1, 2), *numbers)
        expected = stock(planes).transpose(1, 2)
        same(tokens, expected)
        if padding == 0:  # by the kernel for images too, as in half precision
            with torch.autocast("cpu", torch.bfloat16):
                same(convolve(planes.transpose(1, 2), *numbers).float(), expected, 0.05)
        wanted = torch.autograd.grad(expected.square().sum(), (planes, stock.weight))
        for ours, theirs in zip(
            torch.autograd.grad(tokens.square().sum(), (planes, stock.weight)), wanted, strict=True
        ):
            same(ours, theirs, 1e-4)


@pytest.mark.parametrize("family", ["1", "2.0"])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_layout_changes_nothing(family, padded):
    model = build(family, "audio")
    batch = batch_of(family, "audio")
    if padded:
        attention_mask = torch.ones_like(batch["input_values"], dtype=torch.long)
        attention_mask[1, 229:] = 0
        masked = batch["masked"].clone()
        masked[1, ..., 20:] = False
        batch |= {"attention_mask": attention_mask, "masked": masked}
    names = list(model.state_dict())
    fast = step(model, batch)
    set_channels_last(model, False)
    assert list(model.state_dict()) == names
    assert not any(isinstance(layer, ChannelsLastConv1d) for layer in model.modules())
    plain = step(model, batch)
    set_channels_last(model, True)
    assert family == "2.0" or sum(isinstance(layer, ChannelsLastConv1d) for layer in model.modules()) == 6
    same(fast, plain)
    same(step(model, batch), fast, 0.0)


def test_a_frozen_front_end_gets_no_gradient():
    model = Data2VecAudioForPreTraining(v1.audio_config(**quiet("audio"))).train()
    model.data2vec_audio.feature_extractor._freeze_parameters()
    _, gradients = step(model, v1.inputs("audio"))
    assert gradients and not any("feature_extractor" in name for name in gradients)


# Precision


@pytest.mark.parametrize(
    ("family", "kind"), [pytest.param(*case, marks=[] if case[1] == "text" else pytest.mark.slow) for case in EVERY]
)
def test_bf16_follows_fp32(family, kind):
    """Loss within 1 % of fp32's, at the start and over 30 updates."""
    curves = []
    for half in (False, True):
        model = build(family, kind)
        batch = batch_of(family, kind)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer, losses = torch.optim.AdamW(trained, lr=1e-3), []
        for _ in range(30):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            model.update_teacher(0.99)
            losses.append(loss.item())
        curves.append(torch.tensor(losses))
    exact, rounded = curves
    assert exact.max() > 1.05 * exact.min()  # there is a curve to follow
    assert abs(rounded[0] / exact[0] - 1) < 0.01
    assert (rounded / exact - 1).abs().max() < 0.01


# Waits for the device

WAITS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2"}


class Waits(TorchDispatchMode):
    """Operators whose result or shape the host has to read back from the device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in WAITS or any(index is not None and index.dtype == torch.bool for index in indices):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@ALL
def test_a_step_does_not_wait_for_the_device(family, kind, monkeypatch):
    """With counts from the loader and as many masked in every row; without them, a few times."""
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)  # indices are checked as on a GPU
    model = build(family, kind)
    batch = batch_of(family, kind)
    batch["num_items_in_batch"] = batch["masked"].sum()
    with Waits() as unaided:
        step(model, batch)
    with Waits() as waits:
        step(model, batch | {"mask_counts": count_masks(batch["masked"])})
    assert waits.seen == []
    assert 1 <= len(unaided.seen) <= 4


@ALL
def test_counts_change_nothing_and_are_checked(family, kind):
    model = build(family, kind)
    batch = batch_of(family, kind)
    batch["masked"][1, ..., 3] = False  # rows that differ
    counts = count_masks(batch["masked"])
    same(step(model, batch | {"mask_counts": counts}), step(model, batch), 0.0)
    with pytest.raises(RuntimeError, match="mask_counts"):
        step(model, batch | {"mask_counts": counts._replace(scored=counts.scored + 1)})
