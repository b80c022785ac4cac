"""MedCoSS against the original implementation's tensors: every kind of step that it makes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoFeatureExtractor

from data2vec.modeling import (
    JointForPreTraining,
    JointModel,
    MedCossImageConfig,
    MedCossImageForPreTraining,
    MedCossTextConfig,
    MedCossTextForPreTraining,
    MedCossVolumeConfig,
    MedCossVolumeForPreTraining,
    encoder,
)
from data2vec.modeling.convert.check import differences
from data2vec.modeling.convert.command import convert
from data2vec.modeling.convert.keys import to_ours
from data2vec.modeling.convert.medcoss import ROWS, shaped
from data2vec.modeling.embed_image import normalized_patches
from tests.modeling.tiny_data2vec2 import same
from tests.reference import cases, folder_of, part


CASES = cases("medcoss_?")  # not in this repository: the original's licence is for non-commercial purposes
pytestmark = pytest.mark.skipif(not CASES, reason="the reference cases of MedCoSS are not here")
MODELS: dict[str, Any] = {
    "text": (MedCossTextForPreTraining, MedCossTextConfig),
    "image": (MedCossImageForPreTraining, MedCossImageConfig),
    "volume": (MedCossVolumeForPreTraining, MedCossVolumeConfig),
}
KINDS = {"mae2d": "image", "mae3d": "volume", "mlm": "text"}
KINDS |= {"distill2d": "image", "distill3d": "volume", "distill_text": "text"}
MASK_ID = 59


class Case(NamedTuple):
    kind: str
    model: Any
    io: dict[str, Tensor]
    gradients: dict[str, Tensor]
    step: dict[str, Tensor]
    numbers: dict[str, Any]
    batch: dict[str, Tensor]


def config_of(modality: str, target: str, numbers: dict[str, Any]) -> Any:
    _, config_class = MODELS[modality]
    decoder = dict(config_class.default_objective["decoder"])
    fields: dict[str, Any] = {"vocab_size": numbers["vocab"], "max_position_embeddings": 24, "mask_token_id": MASK_ID}
    fields |= {"is_causal": True}
    if modality != "text":
        size = {"image": [12, 16], "volume": [4, 8, 8]}[modality]
        places = {"image": 768, "volume": 8}[modality]
        fields = {"image_size": size, "patch_size": numbers["patch"], "num_positions": places}
        decoder |= {"layers": numbers["decoder"]["depth"], "dim": numbers["decoder"]["dim"]}
        decoder |= {"num_attention_heads": numbers["decoder"]["heads"], "intermediate_size": 48}
    objective = config_class.default_objective | {"target": target, "decoder": decoder, "original_padding": True}
    objective |= {"top_k_layers": 1, "ema_scope": "frozen" if target == "same_view" else "blocks"}
    return config_class(
        hidden_size=numbers["dim"],
        num_hidden_layers=numbers["layers"],
        num_attention_heads=numbers["heads"],
        intermediate_size=numbers["mlp"],
        drop_path_rate=0.0,
        objective=objective,
        **fields,
    )


@pytest.fixture(scope="module", params=KINDS)
def case(request) -> Case:
    kind, folder = request.param, folder_of(CASES[0])
    numbers = json.loads((folder / "config.json").read_text())
    io = part(load_file(folder / "io.safetensors"), f"{kind}.")
    distilled = kind.startswith("distill")
    modality = KINDS[kind]
    model = MODELS[modality][0](config_of(modality, "same_view" if distilled else "input", numbers))
    model.set_attn_implementation("eager")
    state = torch.load(folder / "checkpoint-299.pth", weights_only=False)["model"]
    ours, _ = to_ours(state, ROWS[modality], shaped)
    found = model.load_state_dict({n: t for n, t in ours.items() if n in model.state_dict()}, strict=False)
    assert not [name for name in found.missing_keys if not name.startswith("teacher.")]
    if distilled:
        taught, _ = to_ours(load_file(folder / "teacher.safetensors"), ROWS[modality], shaped)
        encoder = {n.removeprefix("data2vec2."): t for n, t in taught.items() if n.startswith("data2vec2.")}
        model.teacher.load_state_dict(encoder)
    else:
        assert not list(model.teacher.parameters())
    gradients = part(load_file(folder / "grad.safetensors"), f"{kind}.grad.")
    step = part(load_file(folder / "step.safetensors"), f"{kind}.param.")
    return Case(kind, model.train(), io, gradients, step, numbers, batch_of(kind, io))


@pytest.fixture(scope="module")
def output(case) -> Any:
    blocks = case.model.base_model.encoder.layers
    told: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, args, out: told.append(out[3])) for block in blocks]
    with as_recorded(case):
        extra = {} if case.kind.startswith("distill") else {"output_decoder_states": True}
        out = case.model(**case.batch, **extra)
    for hook in hooks:
        hook.remove()
    case.model.zero_grad()
    out.loss.backward()
    out.blocks = told
    return out


def batch_of(kind: str, io: dict[str, Tensor]) -> dict[str, Any]:
    if KINDS[kind] == "text":
        if kind == "mlm":
            chosen, read = io["in.text_labels"] != -100, io["in.data"]
            clean = torch.where(chosen, io["in.text_labels"], read)
            batch = {"input_ids": clean, "student_input_ids": read, "masked": chosen & (read == MASK_ID)}
            return batch | {"scored": chosen, "attention_mask": io["in.mask_attention"]}
        read = io["student.mixed_data"]
        return {"input_ids": read, "masked": torch.zeros_like(read).bool(), "attention_mask": io["student.attention"]}
    name = {"image": "pixel_values", "volume": "voxel_values"}[KINDS[kind]]
    values = io["student.mixed_data" if kind.startswith("distill") else "student.data"]
    times = io["in.temporal_id_student"].expand(len(values))
    return {name: values, "masked": io["mask.removed"].bool(), "temporal_ids": times}


@contextmanager
def as_recorded(case: Case) -> Iterator[None]:
    """The original draws the temporal position of the teacher apart, and its causal mask takes the wrong padding."""
    with pytest.MonkeyPatch.context() as patch:
        if "in.temporal_id_teacher" in case.io:
            embeddings, times = case.model.teacher.embeddings, case.io["in.temporal_id_teacher"]
            plain = embeddings.forward
            patch.setattr(embeddings, "forward", lambda values, ids: plain(values, times.expand(len(values))))
        patch.setattr(encoder, "window_mask", as_shipped(case))
        yield


def as_shipped(case: Case) -> Any:
    """Head h of sample i gets the causal mask of sample (i * heads + h) mod samples, with the padding of that one."""

    def mask(time: int, window: int | None, extra: int, real: Tensor, device: torch.device, causal: bool) -> Tensor:
        rows, heads = len(real), case.numbers["heads"]
        allowed = torch.ones(time, time).tril().bool() & real.unsqueeze(1)  # (rows, time, time)
        return allowed[torch.arange(rows * heads) % rows].unflatten(0, (rows, heads))

    return mask


def ordered(states: Tensor, case: Case) -> Tensor:
    """In the order of the sequence, as ours are; the original shuffles what is behind the class token."""
    if KINDS[case.kind] == "text":
        return states
    kept = states.shape[1] - 1
    order = case.io["in.noise"].argsort(1)[:, :kept].argsort(1)
    behind = states[:, 1:].gather(1, order.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
    return torch.cat((states[:, :1], behind), dim=1)


def test_embeddings_and_blocks(case, output):
    model, values = case.model, case.batch[case.model.main_input_name]
    ids = case.batch.get("temporal_ids")
    if KINDS[case.kind] == "text":
        values = case.batch.get("student_input_ids", values)
    with torch.no_grad():
        same(model.base_model.embeddings(values, ids).values, case.io["student.embed"])
    assert len(output.blocks) == case.numbers["layers"]
    for number, states in enumerate(output.blocks):
        same(states, ordered(case.io[f"student.block_out.{number}"], case))
    if KINDS[case.kind] != "text":
        same(output.last_hidden_state, ordered(case.io["student.out"], case))


def test_targets_predictions_and_loss(case, output):
    io = case.io
    if case.kind.startswith("distill"):
        extra = 0 if KINDS[case.kind] == "text" else 1  # class tokens come first
        for found, name in ((output.targets, "teacher.out"), (output.predictions, "student.out")):
            states = ordered(io[name], case)
            same(found, torch.cat((states[:, :extra].flatten(0, 1), states[:, extra:].flatten(0, 1))))
    elif KINDS[case.kind] == "text":
        # the feature that the original returns is what its head reads
        same(output.decoder_output, io["mlm.logits"])
        assert torch.equal(output.targets.squeeze(1), io["in.text_labels"][io["in.text_labels"] != -100])
    else:
        same(output.all_targets, io["target"])
        same(output.decoder_output, io["decoder.pred_with_cls"][:, 1:])
        same(output.predictions, io["decoder.pred_with_cls"][:, 1:][case.batch["masked"]])
    same(output.loss, io["loss"])


def test_what_the_decoder_reads(case, output):
    if "decoder.in" not in case.io:
        pytest.skip("there is no decoder of patches")
    decoder = case.model.decoder
    with torch.no_grad():
        front = decoder.enter(output.last_hidden_state[:, :1])
        read = torch.cat((front, output.decoder_input), dim=1) + decoder.positions.weight
    same(read, case.io["decoder.in"])


def test_gradients(case, output):
    expected, left = to_ours(case.gradients, ROWS[KINDS[case.kind]], shaped)
    assert not left
    found = {n: p.grad for n, p in case.model.named_parameters() if p.grad is not None}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        same(found[name], gradient)


def test_one_step_of_the_optimizer(case, output):
    if not case.step:
        pytest.skip("the reference has no step of this kind")
    numbers, model = case.numbers, case.model
    before = {n: p.clone() for n, p in model.state_dict().items()}
    named = [(n, p) for n, p in model.named_parameters() if p.grad is not None]
    # the original decays what has axes of one in front, too
    wide = {n for n, p in named if p.dim() > 1 or n.endswith(("mask_token.weight", "task_embedding"))}
    groups = [
        {"params": [p for n, p in named if n in wide], "weight_decay": numbers["weight_decay"]},
        {"params": [p for n, p in named if n not in wide], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=numbers["lr"], betas=numbers["betas"]).step()
    after, left = to_ours(case.step, ROWS[KINDS[case.kind]], shaped)
    assert not left
    for name, tensor in after.items():
        found = model.state_dict()[name]
        if name.endswith("qkv.bias"):  # that of keys has no gradient, and the optimizer makes steps of its rounding
            found, tensor = (of.view(3, -1)[::2] for of in (found, tensor))
        off = (found - tensor).abs()  # a gradient near 0 moves by the whole rate either way
        assert (off > 1e-5).float().mean() < 0.02 and off.max() <= 2.1 * numbers["lr"], name
    model.load_state_dict(before)


@pytest.mark.parametrize(("causal", "name"), [(True, "batch_major"), (False, "bidirectional")])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_of_text(causal, name, attention):
    """Causal attention is what the original's mask was meant to be; `shipped` gives heads the padding of others."""
    folder = folder_of(CASES[0])
    io = load_file(folder / "io.safetensors")
    config = config_of("text", "input", json.loads((folder / "config.json").read_text()))
    config.is_causal = causal
    model = MedCossTextForPreTraining(config).eval()
    model.set_attn_implementation(attention)
    state = torch.load(folder / "checkpoint-299.pth", weights_only=False)["model"]
    model.load_state_dict(to_ours(state, ROWS["text"], shaped)[0], strict=False)
    real = io["mlm.in.mask_attention"]
    with torch.no_grad():
        states = model.base_model(io["mlm.in.data"], real).last_hidden_state
    same(states[real.bool()], io[f"text_attention.{name}"][real.bool()])
    assert (states - io["text_attention.shipped"])[real.bool()].abs().max() > 0.1


def test_patches_are_cut_as_by_the_original():
    io = load_file(folder_of(CASES[0]) / "io.safetensors")
    for kind, patch in (("mae2d", (4, 4)), ("mae3d", (4, 4, 4))):
        same(normalized_patches(io[f"{kind}.in.data"], patch), io[f"{kind}.target"])


def test_a_checkpoint_becomes_a_joint_model(tmp_path):
    """All three modalities on one trunk, held to the case by the converter's own check; each opens alone."""
    folder, out = folder_of(CASES[0]), tmp_path / "converted"
    model, words, notes = convert(folder / "checkpoint-299.pth", out)
    assert words == "MedCoSS, pretrained" and "causal" in notes[0]
    found = differences(model, load_file(folder / "io.safetensors"))
    assert len(found) == 5 and max(found.values()) < 1e-5
    loaded, info = JointForPreTraining.from_pretrained(out, output_loading_info=True)
    assert not any(info.values()) and max(differences(loaded, load_file(folder / "io.safetensors")).values()) < 1e-5
    alone = JointModel.from_pretrained(out, modality="volume")
    processor = AutoFeatureExtractor.from_pretrained(out / "volume")
    assert alone(**processor(torch.zeros(3, 9, 7))).last_hidden_state.shape == (1, 5, 16)
    encoder, _, _ = convert(folder / "checkpoint-299.pth", tmp_path / "encoder", encoder_only=True)
    assert isinstance(encoder, JointModel)
