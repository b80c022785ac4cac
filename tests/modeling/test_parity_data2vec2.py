"""data2vec 2.0 against the original implementation's tensors: the proof that this is data2vec 2.0."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data2vec.modeling import (
    Data2Vec2AudioConfig,
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextConfig,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionConfig,
    Data2Vec2VisionForPreTraining,
    EatConfig,
    EatForPreTraining,
    Emotion2vecConfig,
    Emotion2vecForPreTraining,
)
from data2vec.modeling.attention import Alibi, alibi_bias
from data2vec.modeling.convert.check import masks_of
from data2vec.modeling.embed_image import sincos_positions
from tests.reference import GOLDEN, cases, check_in_bf16, load_case, part, rename, renamed, reshaped


def shared(m: dict, modality: dict, io: dict, masking: dict) -> dict[str, Any]:
    """Fields of our configuration from the original's model, and from the modality in it."""
    norms, decoder = ("instance", "layer", "batch"), modality["decoder"]
    scope = "blocks" if m["ema_encoder_only"] else "all" if modality["ema_local_encoder"] else "encoder"
    rows = len(io["in.precomputed_mask"])  # samples times views
    switches = {**m, **modality, **decoder}
    for name in ("depth", "modalities", "decoder"):
        switches.pop(name)
    objective = {
        "masking": masking,
        "views": m["clone_batch"],
        "top_k_layers": m["average_top_k_layers"],
        "target_tap": "end_of_block" if m["end_of_block_targets"] else "ffn",
        "target_layer_norm": next((n for n in norms if m[f"{n}_norm_target_layer"]), None),
        "target_norm": next((n for n in norms[:2] if m[f"{n}_norm_targets"]), None),
        "original_padding": True,
        "loss_beta": m["loss_beta"],
        "loss_scale": m["loss_scale"],
        "cls_loss_weight": m["cls_loss"] * rows,
        "head_layers": decoder["projection_layers"] if modality["type"] != "IMAGE" else 1,
        "decoder": {
            "dim": decoder["decoder_dim"],
            "layers": decoder["decoder_layers"],
            "kernel": decoder["decoder_kernel"],
            "groups": decoder["decoder_groups"],
            "residual": decoder["decoder_residual"],
            "input_dropout": decoder["input_dropout"],
        },
        "mask_noise_std": modality["mask_noise_std"],
        "ema_decay": m["ema_decay"],
        "ema_end_decay": m["ema_end_decay"],
        "ema_anneal_steps": m["ema_anneal_end_step"],
        "ema_scope": scope,
    }
    return {
        "hidden_size": m["embed_dim"],
        "num_hidden_layers": m["depth"],
        "num_prenet_layers": modality["prenet_depth"],
        "num_extra_tokens": modality["num_extra_tokens"],
        "num_attention_heads": m["num_heads"],
        "intermediate_size": int(m["embed_dim"] * m["mlp_ratio"]),
        "layer_norm_eps": m["norm_eps"],
        "hidden_dropout": m["encoder_dropout"],
        "attention_dropout": m["attention_dropout"],
        "activation_dropout": m["activation_dropout"],
        "layerdrop": m["layerdrop"],
        "objective": objective,
    }


def audio(
    m: dict, io: dict, weights: dict, config_class: Any = Data2Vec2AudioConfig, **objective: Any
) -> Data2Vec2AudioConfig:
    modality = m["modalities"]["audio"]
    convs = eval(modality["feature_encoder_spec"])  # "[(32,10,5)]+[(32,3,2)]*2", from our own file
    config_class.check_original_switches({**m, **modality, **modality["decoder"]})
    fields = shared(m, modality, io, {"method": "block", "prob": 0.5, "length": 5, "adjust": 0.05})
    return config_class(
        conv_dim=[c[0] for c in convs],
        conv_kernel=[c[1] for c in convs],
        conv_stride=[c[2] for c in convs],
        num_conv_pos_embeddings=modality["conv_pos_depth"],
        conv_pos_kernel_size=max(3, modality["conv_pos_width"] // modality["conv_pos_depth"]),
        num_conv_pos_embedding_groups=modality["conv_pos_groups"],
        **fields | {"objective": fields["objective"] | objective},
    )


def vision(m: dict, io: dict, weights: dict) -> Data2Vec2VisionForPreTraining:
    modality = m["modalities"]["image"]
    Data2Vec2VisionConfig.check_original_switches({**m, **modality, **modality["decoder"]})
    config = Data2Vec2VisionConfig(
        image_size=modality["input_size"],
        patch_size=modality["patch_size"],
        num_channels=modality["in_chans"],
        **shared(m, modality, io, {"method": "block", "prob": 0.8, "length": 3, "adjust": 0.07, "inverse": True}),
    )
    return Data2Vec2VisionForPreTraining(config)


def text(m: dict, io: dict, weights: dict) -> Data2Vec2TextForPreTraining:
    modality = m["modalities"]["text"]
    Data2Vec2TextConfig.check_original_switches({**m, **modality, **modality["decoder"]})
    config = Data2Vec2TextConfig(
        vocab_size=len(weights["modality_encoders.TEXT.local_encoder.embed_tokens.weight"]),
        max_position_embeddings=modality["max_source_positions"] + 2,
        **shared(m, modality, io, {"method": "random", "prob": 0.48}),
    )
    return Data2Vec2TextForPreTraining(config)


def eat(m: dict, io: dict, weights: dict) -> EatForPreTraining:
    modality = m["modalities"]["image"]
    EatConfig.check_original_switches({**m, **modality, **modality["decoder"]})
    masks = ("mask_prob", "mask_length", "mask_prob_adjust", "inverse_mask")
    masking = dict(zip(("prob", "length", "adjust", "inverse"), map(modality.get, masks), strict=True))
    rows = weights["modality_encoders.IMAGE.fixed_positional_encoder.positions"].shape[1] // 8
    return EatForPreTraining(
        EatConfig(max_position_embeddings=rows, **shared(m, modality, io, {"method": "block", **masking}))
    )


BUILD = {
    "audio2": lambda *case: Data2Vec2AudioForPreTraining(audio(*case)),
    "vision2": vision,
    "text2": text,
    "eat": eat,
    "emotion2vec": lambda *case: Emotion2vecForPreTraining(audio(*case, Emotion2vecConfig, cls_pooling="tokens")),
}
METHODS = {
    "v2_audio": "audio2",
    "v2_image": "vision2",
    "v2_text": "text2",
    "eat": "eat",
    "emotion2vec_train": "emotion2vec",
}
CASES = {name: kind for method, kind in METHODS.items() for name in cases(f"{method}_?")}


def ours(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Under our names, without the fixed positions, which we do not store."""
    return {n: t for n, t in renamed(tensors, kind).items() if not n.endswith("positions.table")}


def load(name: str):
    kind = CASES[name]
    config, io, weights = load_case(name)
    model = BUILD[kind](config["cfg"]["model"], io, weights)
    keys = model.load_state_dict(ours(weights, kind), strict=False)
    assert not keys.unexpected_keys
    copied = ("teacher.encoder.layers.",) if model.objective.ema_scope == "blocks" else ("",)
    assert all(key.startswith("teacher.") and not key.startswith(copied) for key in keys.missing_keys)
    model.update_teacher(decay=1.0)  # what the original's teacher lacks is copied from the student
    return kind, model, config, io, weights


@pytest.fixture(params=CASES)
def case(request):
    kind, model, config, io, weights = load(request.param)
    return kind, model.eval(), config, io


def inputs_of(model, io: dict) -> dict[str, Tensor]:
    inputs = {model.main_input_name: io["in.source"]}
    if model.config.model_type == "eat":  # the original's have an axis of one channel
        inputs[model.main_input_name] = io["in.source"].squeeze(1)
    if "in.padding_mask" in io and io["in.padding_mask"].any():
        inputs["attention_mask"] = (~io["in.padding_mask"]).long()
    return inputs


def close(actual: Tensor, expected: Tensor, what: str, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape, what
    error = float((actual.detach() - expected).abs().max() / max(1.0, expected.abs().max()))
    assert error < tolerance, f"{what}: off by {error:.2e}"


def test_step_equals_the_original(case):
    kind, model, config, io = case
    inputs = inputs_of(model, io) | masks_of(model, io)
    out = model(**inputs, output_teacher_layers=True, output_decoder_states=True, num_items_in_batch=1)

    extra, k = model.config.num_extra_tokens, model.objective.top_k_layers
    golden_layers = [io[name] for name in sorted(io) if name.startswith("teacher.layer_result.")]
    assert len(out.teacher_layers) == len(golden_layers) == model.config.num_hidden_layers >= k
    for i, (layer, golden) in enumerate(zip(out.teacher_layers, golden_layers, strict=True)):
        close(layer, golden[:, extra:], f"teacher layer {i}")
    close(out.all_targets, io["target.full"], "targets of all positions")
    close(out.targets, io["reg.y"], "targets in the loss")
    # the original keeps tokens in the order of an unstable sort
    order = io["mask.ids_keep"].argsort(1)
    encoded = io["student.encoder_out"]
    sorted_tokens = encoded[:, extra:].gather(1, order.unsqueeze(-1).expand(-1, -1, encoded.shape[-1]))
    close(out.last_hidden_state[:, extra:], sorted_tokens, "encoder output")
    close(out.last_hidden_state[:, :extra], encoded[:, :extra], "encoder output of extra tokens") if extra else None
    close(out.decoder_input, io["student.decoder_input"], "decoder input")
    close(out.decoder_output, io["student.decoder_out"], "decoder output")
    close(out.predictions, io["reg.x"], "predictions")
    assert len(out.targets) == io["sample_size"]
    assert ("cls.x" in io) == (out.cls_predictions is not None)
    if "cls.x" in io:
        close(out.cls_predictions, io["cls.x"], "CLS predictions")
        close(out.cls_targets, io["cls.y"], "CLS targets")
    if "loss.cls" in io:
        weighted = out.loss_terms["utterance"] * model.objective.cls_loss_weight * len(out.targets)
        close(weighted, io["loss.cls"], "CLS loss")
        close(out.loss_terms["regression"] * len(out.targets), io["loss"] - io["loss.cls"], "regression loss")
    close(out.loss, io["loss"], "loss")

    scalars = config["scalars_of_io_forward"]
    assert out.target_std.item() == pytest.approx(scalars["target_var"], abs=1e-5)
    assert out.prediction_std.item() == pytest.approx(scalars["pred_var"], abs=1e-5)


def test_every_gradient_equals_the_original(case):
    kind, model, _, io = case
    model.train()  # dropout is 0; the teacher must not notice
    model(**inputs_of(model, io), **masks_of(model, io), num_items_in_batch=1).loss.backward()
    golden = ours(part(io, "grad."), kind)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert set(golden) == set(gradients)
    for name, gradient in gradients.items():
        close(gradient, golden[name], f"gradient of {name}")
    assert all(p.grad is None for p in model.teacher.parameters())


def test_step_in_bf16_is_the_originals_but_for_rounding(case):
    kind, model, _, io = case
    check_in_bf16(model, inputs_of(model, io) | masks_of(model, io), io, ours(part(io, "grad."), kind))


def test_teacher_after_one_move_equals_the_original(case):
    kind, model, config, io = case
    model.update_teacher(config["ema_test_decay"])
    golden = ours({f"_ema.{name}": t for name, t in part(io, "ema_after.").items()}, kind)
    teacher = {f"teacher.{n}": t for n, t in model.teacher.state_dict().items()}
    assert golden and set(golden) == set(teacher)
    for name, tensor in teacher.items():
        close(tensor, golden[name], f"teacher's {name}")


def test_features_equal_the_original(case):
    _, model, _, io = case
    extra = model.config.num_extra_tokens
    out = model.base_model(**inputs_of(model, io), output_hidden_states=True)
    close(out.last_hidden_state, io["feat.x_with_extra_tokens"], "features")
    close(out.last_hidden_state[:, extra:], io["feat.x"], "features")
    assert len(out.hidden_states) == 1 + model.config.num_prenet_layers + model.config.num_hidden_layers
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)


def test_fixed_positions_equal_the_original():
    _, model, _, _, weights = load("v2_image_a")
    name = "modality_encoders.IMAGE.fixed_positional_encoder.positions"
    for positions in (model.base_model.positions, model.teacher.positions):
        close(positions.table, weights[name], "positions")
        close(positions.table, weights["_ema." + name], "positions")


# Tables of the original, beside the cases


def misc() -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = GOLDEN / "misc"
    return json.loads((folder / "meta.json").read_text()), load_file(folder / "masks_and_tables.safetensors")


@pytest.mark.parametrize("heads", [4, 6, 12, 16])
def test_alibi_equals_the_original(heads):
    bias = alibi_bias(*Alibi(heads)(torch.arange(9).unsqueeze(0), extra=0))
    close(bias[0], misc()[1][f"alibi.1d.h{heads}"], "ALiBi")


def test_positions_equal_the_original():
    axis = torch.arange(6)
    close(sincos_positions(axis, axis, 48), misc()[1]["sincos2d.d48.n6"], "positions")


SHALLOW: dict[str, Any] = {"num_hidden_layers": 2}
STARTS = {
    "audio": lambda: Data2Vec2AudioForPreTraining(
        Data2Vec2AudioConfig(objective=Data2Vec2AudioConfig.default_objective | {"top_k_layers": 2}, **SHALLOW)
    ),
    "vision": lambda: Data2Vec2VisionForPreTraining(
        Data2Vec2VisionConfig(objective=Data2Vec2VisionConfig.default_objective | {"top_k_layers": 2}, **SHALLOW)
    ),
    "text": lambda: Data2Vec2TextForPreTraining(
        Data2Vec2TextConfig(
            vocab_size=55, objective=Data2Vec2TextConfig.default_objective | {"top_k_layers": 2}, **SHALLOW
        )
    ),
}


@pytest.mark.parametrize("kind", STARTS)
def test_base_recipe_starts_like_the_original(kind):
    """Names, shapes and spread of every weight of the published base recipe, with 2 blocks."""
    meta, _ = misc()
    table = next(value for name, value in meta.items() if name.startswith("base_init"))
    golden = table[{"audio": "v2_audio", "vision": "v2_image", "text": "v2_text"}[kind]]
    names = {rename(name, f"{kind}2"): row for name, row in golden.items()}
    names.pop("data2vec2.positions.table", None)
    torch.manual_seed(0)
    weights = {n: p.detach() for n, p in STARTS[kind]().named_parameters() if p.requires_grad}
    assert set(weights) == set(names)
    for name, weight in weights.items():
        shape, mean, std, largest = names[name][:4]
        assert list(weight.shape) == list(reshaped(name, torch.empty(shape)).shape), name
        many = weight.numel() > 5000
        assert weight.std().item() == pytest.approx(std, rel=0.03 if many else 0.15, abs=1e-9), name
        assert weight.mean().item() == pytest.approx(mean, abs=0.3 * std + 1e-9), name
        assert weight.abs().max().item() == pytest.approx(largest, rel=0.3), name
