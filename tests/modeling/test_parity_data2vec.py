"""data2vec 1 against the original implementation's tensors: the proof that this is data2vec."""

import copy

import pytest
import torch

from data2vec.modeling import (
    Data2VecAudioConfig,
    Data2VecAudioForPreTraining,
    Data2VecTextConfig,
    Data2VecTextForPreTraining,
    Data2VecVisionConfig,
    Data2VecVisionForPreTraining,
)
from data2vec.tests.reference import check_in_bf16, load_case, part, renamed


def objective_of(m: dict, **kwargs) -> dict:
    names = ("instance", "layer", "batch")
    return {
        "top_k_layers": m["average_top_k_layers"],
        "target_layer_norm": next((n for n in names if m[f"{n}_norm_target_layer"]), None),
        "target_norm": next((n for n in names[:2] if m[f"{n}_norm_targets"]), None),
        "original_padding": True,  # the original's statistics
        "loss_beta": m["loss_beta"],
        "loss_scale": m["loss_scale"],
        "ema_decay": m["ema_decay"],
        "ema_end_decay": m["ema_end_decay"],
        "ema_anneal_steps": m["ema_anneal_end_step"],
        **kwargs,
    }


def audio(m: dict):
    convs = eval(m["conv_feature_layers"])  # "[(32,10,5)]+[(32,3,2)]*2", from our own file
    config = Data2VecAudioConfig(
        hidden_size=m["encoder_embed_dim"],
        num_hidden_layers=m["encoder_layers"],
        num_attention_heads=m["encoder_attention_heads"],
        intermediate_size=m["encoder_ffn_embed_dim"],
        conv_dim=[c[0] for c in convs],
        conv_kernel=[c[1] for c in convs],
        conv_stride=[c[2] for c in convs],
        num_conv_pos_embeddings=m["pos_conv_depth"],
        conv_pos_kernel_size=max(3, m["conv_pos"] // m["pos_conv_depth"]),
        num_conv_pos_embedding_groups=m["conv_pos_groups"],
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        objective=objective_of(m, masking={"method": "span", "prob": 0.65, "length": 4}),
    )
    return Data2VecAudioForPreTraining(config)


def text(m: dict):
    t = m["transformer"]
    config = Data2VecTextConfig(
        vocab_size=55,
        hidden_size=t["encoder"]["embed_dim"],
        num_hidden_layers=t["encoder"]["layers"],
        num_attention_heads=t["encoder"]["attention_heads"],
        intermediate_size=t["encoder"]["ffn_embed_dim"],
        max_position_embeddings=m["max_positions"] + 2,
        layer_norm_eps=1e-5,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        objective=objective_of(
            m, masking={"method": "token", "prob": 0.35, "length": 4}, head_layers=m["head_layers"]
        ),
    )
    return Data2VecTextForPreTraining(config)


def vision(m: dict):
    config = Data2VecVisionConfig(
        hidden_size=m["embed_dim"],
        num_hidden_layers=m["depth"],
        num_attention_heads=m["num_heads"],
        intermediate_size=4 * m["embed_dim"],  # the original ignores its mlp_ratio
        image_size=m["image_size"],
        patch_size=m["patch_size"],
        layer_norm_eps=1e-5,
        layer_scale_init_value=m["layer_scale_init_value"],
        use_shared_relative_position_bias=m["shared_rel_pos_bias"],
        drop_path_rate=0.0,
        objective=objective_of(
            m,
            masking={"method": "beit_block", "ratio": 0.5, "min_patches": 2},
            target_tap="end_of_block" if m["end_of_block_targets"] else "ffn",
            head_layers=0,  # the original defines one and does not use it
        ),
    )
    return Data2VecVisionForPreTraining(config)


CASES = {"v1_audio_a": ("audio", audio), "v1_text_a": ("text", text), "v1_vision_a": ("vision", vision)}
NOT_OURS = ("version", "relative_position_index", "final_proj")  # buffers, and what vision does not use


def ours(tensors: dict, kind: str, drop_head: bool) -> dict:
    skip = (*NOT_OURS, "head.") if drop_head else NOT_OURS
    return {n: t for n, t in renamed(tensors, kind).items() if not any(s in n for s in skip)}


@pytest.fixture(params=CASES)
def case(request):
    kind, build = CASES[request.param]
    config, io, weights = load_case(request.param)
    model = build(config["cfg"]["model"]).eval()
    keys = model.load_state_dict(ours(weights, kind, drop_head=kind == "vision"), strict=False)
    assert not keys.unexpected_keys
    assert all("token_type" in key for key in keys.missing_keys), keys.missing_keys
    if kind == "text":
        for embeddings in (model.data2vec_text.embeddings, model.teacher.embeddings):
            torch.nn.init.zeros_(embeddings.token_type_embeddings.weight)
    return kind, model, config, io


def inputs_of(kind: str, io: dict) -> dict:
    if kind == "audio":
        return {
            "input_values": io["in.source"],
            "attention_mask": (~io["in.padding_mask"]).long(),
            "masked": io["in.mask_indices"],
        }
    if kind == "text":
        tokens = io["in.target_tokens"]
        return {"input_ids": tokens, "attention_mask": tokens.ne(1).long(), "masked": io["in.src_tokens"] == 54}
    return {"pixel_values": io["in.img"], "masked": io["in.vision_mask"].flatten(1).bool()}


def real_steps(kind: str, io: dict) -> torch.Tensor:
    """Where a golden tensor means something: in text the original writes other values into the padding."""
    if kind == "text":
        return io["in.target_tokens"] != 1
    return torch.ones(io["feat.x"].shape[:2], dtype=torch.bool)


def close(actual, expected, what, tolerance=1e-5):
    assert actual.shape == expected.shape, what
    error = (actual - expected).abs().max() / max(1.0, expected.abs().max())
    assert error < tolerance, f"{what}: off by {error:.2e}"


def test_step_equals_the_original(case):
    kind, model, config, io = case
    out = model(**inputs_of(kind, io), output_teacher_layers=True, num_items_in_batch=1)

    k = model.objective.top_k_layers
    real = real_steps(kind, io)
    golden_layers = [io[name] for name in sorted(io) if name.startswith("teacher.layer_result.")][-k:]
    for i, (layer, golden) in enumerate(zip(out.teacher_layers[-k:], golden_layers, strict=True)):
        golden = golden if kind == "vision" else golden.transpose(0, 1)
        close(layer[real], golden[real], f"target layer {i}")
    close(out.targets, io["reg.y"], "targets")
    close(out.predictions, io["reg.x"], "predictions")
    assert len(out.targets) == io["sample_size"]
    close(out.loss, io["loss"], "summed loss")
    encoder_out = out.last_hidden_state[:, 1:] if kind == "vision" else out.last_hidden_state
    close(encoder_out[real], io["student.encoder_out"][real], "masked encoder output")

    scalars = config["scalars_of_io_forward"]
    if "target_var" in scalars:
        assert out.target_std.item() == pytest.approx(scalars["target_var"], abs=1e-5)
        assert out.prediction_std.item() == pytest.approx(scalars["pred_var"], abs=1e-5)


def test_every_gradient_equals_the_original(case):
    kind, model, _, io = case
    model.train()  # dropout is 0; the teacher must not notice
    model(**inputs_of(kind, io), num_items_in_batch=1).loss.backward()
    golden = ours(part(io, "grad."), kind, drop_head=kind == "vision")
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients.items():
        if "token_type" not in name:
            close(gradient, golden[name], f"gradient of {name}")
    assert set(golden) <= set(gradients)
    assert all(p.grad is None for p in model.teacher.parameters())


def test_step_in_bf16_is_the_originals_but_for_rounding(case):
    kind, model, _, io = case
    check_in_bf16(model, inputs_of(kind, io), io, ours(part(io, "grad."), kind, drop_head=kind == "vision"))


def test_teacher_after_one_move_equals_the_original(case):
    kind, model, config, io = case
    model.update_teacher(config["ema_test_decay"])
    prefix = "encoder._ema." if kind == "text" else "_ema."
    golden = ours({prefix + name: t for name, t in part(io, "ema_after.").items()}, kind, drop_head=False)
    teacher = {f"teacher.{n}": t for n, t in model.teacher.state_dict().items() if "token_type" not in n}
    assert set(golden) == set(teacher)
    for name, tensor in teacher.items():
        close(tensor, golden[name], name)


def test_features_equal_the_original(case):
    kind, model, _, io = case
    inputs = inputs_of(kind, io)
    inputs.pop("masked")
    hidden = model.base_model(**inputs).last_hidden_state.detach()
    real = real_steps(kind, io)
    close((hidden[:, 1:] if kind == "vision" else hidden)[real], io["feat.x"][real], "features")


def test_padded_row_equals_the_row_alone():
    """Ours, with statistics over real frames: padding changes nothing."""
    config, io, weights = load_case("v1_audio_a")
    settings = copy.deepcopy(config["cfg"]["model"])
    model = audio(settings).eval()
    model.load_state_dict(ours(weights, "audio", drop_head=False), strict=False)
    inputs = inputs_of("audio", io)
    row = int((~io["in.padding_mask"]).sum(1).argmin())
    samples = int((~io["in.padding_mask"])[row].sum())
    frames = model.num_frames(samples)
    assert samples < io["in.source"].shape[1]
    alone = {
        "input_values": inputs["input_values"][row : row + 1, :samples],
        "masked": inputs["masked"][row : row + 1, :frames],
    }

    def targets_of(original_padding: bool):
        model.objective.original_padding = original_padding
        both = model(**inputs).all_targets[row, :frames], model(**alone).all_targets[0]
        return (both[0] - both[1]).abs().max()

    assert targets_of(original_padding=False) < 1e-5
    assert targets_of(original_padding=True) > 1e-2
