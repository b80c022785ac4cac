"""What holds for every class of both families."""

import copy
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from data2vec import modeling
from data2vec.modeling.gather import count_masks
from tests.modeling import test_data2vec as data2vec1
from tests.modeling import tiny_data2vec2, tiny_joint, tiny_medcoss, tiny_point2vec, tiny_streams, tiny_universal


FAMILY_1 = {model_class: kind for kind, (model_class, _, _) in data2vec1.KINDS.items()}
MODULES: tuple[Any, ...] = (tiny_data2vec2, tiny_point2vec, tiny_streams, tiny_joint, tiny_medcoss, tiny_universal)
TINY = {model_class: module for module in MODULES for model_class in module.MODELS}
KINDS: dict[Any, str] = FAMILY_1 | {model_class: module.MODELS[model_class] for model_class, module in TINY.items()}
PRETRAINING = [model_class for model_class in KINDS if "ForPreTraining" in model_class.__name__]
UNPADDED = ("vision", "scan", "volume")
QUIET = {
    "audio": dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0),
    "text": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "vision": {"drop_path_rate": 0.0},
}
EVERY = pytest.mark.parametrize("model_class", KINDS, ids=lambda c: c.__name__)
TAUGHT = [model_class for model_class in PRETRAINING if model_class not in tiny_medcoss.MODELS]  # by a teacher
PRETRAINERS = pytest.mark.parametrize("model_class", PRETRAINING, ids=lambda c: c.__name__)


def config_of(model_class: Any, **fields: Any) -> Any:
    kind = KINDS[model_class]
    if model_class in FAMILY_1:
        return data2vec1.KINDS[kind][2](**fields)
    module = TINY[model_class]
    return module.config_of(model_class, **fields) if hasattr(module, "config_of") else module.CONFIGS[kind](**fields)


def inputs_of(model_class: Any, rows: int = 3) -> dict[str, Tensor]:
    kind = KINDS[model_class]
    if model_class in FAMILY_1:
        return data2vec1.inputs(kind, rows)
    return TINY[model_class].inputs(kind)


def build(model_class: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    return model_class(config_of(model_class, **fields)).eval()


def build_moved(model_class: Any, **fields: Any) -> Any:
    """Without dropout, and away from zeros and ones, so that nothing hides behind them."""
    model = build(model_class, **(QUIET[KINDS[model_class]] if model_class in FAMILY_1 else {}), **fields)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def run(model: Any, padded: bool = False) -> Any:
    batch, kind = inputs_of(type(model)), KINDS[type(model)]
    if padded:
        name = next(iter(batch))
        batch["attention_mask"] = torch.ones(batch[name].shape[:2], dtype=torch.long)
        batch["attention_mask"][1, len(batch[name][1]) * 2 // 3 :] = 0
        if kind == "text":
            batch[name] = batch[name].masked_fill(batch["attention_mask"] == 0, 1)
        batch.pop("masked", None)
    torch.manual_seed(2)  # masks and noise of pretraining
    return model(**batch)


def gradients_of(model: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
    output = run(model, **kwargs)
    value = output.loss if "loss" in output else tiny_data2vec2.main_output(output).square().mean()
    value.backward()
    return output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@contextmanager
def equal_draws() -> Iterator[None]:
    """Every module is initialised with the same seed, whatever was initialised before it."""
    original = PreTrainedModel._initialize_weights

    def seeded(self: Any, *args: Any) -> None:
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` formats the stack for every kind of device
        original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "_initialize_weights", seeded)
        yield


@pytest.mark.parametrize(
    ("model_class", "fields"),
    [(model_class, {}) for model_class in KINDS]
    + [
        (modeling.Data2VecAudioForPreTraining, {"deep_norm": True}),
        (modeling.Data2VecVisionForPreTraining, {"use_absolute_position_embeddings": True}),
        (modeling.Data2Vec2AudioForSequenceClassification, {"use_weighted_layer_sum": True}),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "".join(value),
)
def test_a_tensor_that_a_checkpoint_lacks_starts_as_in_init(model_class, fields):
    config = config_of(model_class, **fields)
    with equal_draws():
        built = model_class(copy.deepcopy(config)).state_dict()
        loaded = model_class.from_pretrained(None, config=copy.deepcopy(config), state_dict={}).state_dict()
    assert built.keys() == loaded.keys()
    assert not [name for name, tensor in built.items() if not torch.equal(tensor, loaded[name])]


def test_a_mask_token_that_an_image_encoder_lacks_is_not_zero(tmp_path):
    encoder = data2vec1.Data2VecVisionModel(data2vec1.vision_config(use_mask_token=False))
    encoder.save_pretrained(tmp_path)
    embeddings = modeling.Data2VecVisionForPreTraining.from_pretrained(tmp_path).data2vec_vision.embeddings
    assert embeddings.mask_token.std() > 0
    assert torch.equal(embeddings.cls_token, encoder.embeddings.cls_token)


CASTS = {
    "to": lambda model: model.to(torch.bfloat16),
    "type": lambda model: model.type(torch.bfloat16),
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "teacher.to": lambda model: (model.to(torch.bfloat16), model.teacher.to(torch.bfloat16)) and model,
    "_apply": lambda model: model._apply(lambda t: t.bfloat16() if t.is_floating_point() else t),
    "from_config": lambda model: type(model)._from_config(model.config, dtype=torch.bfloat16),
    "there and back": lambda model: model.to(torch.bfloat16).float(),
}


@pytest.mark.parametrize("model_class", TAUGHT, ids=lambda c: c.__name__)
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_no_cast_reaches_the_teacher(model_class, cast):
    model = build(model_class)
    before = copy.deepcopy(model.teacher.state_dict())
    there_and_back = cast is CASTS["there and back"]
    student, model = model.base_model, cast(model)
    assert model.base_model.dtype == (torch.float32 if there_and_back else model.dtype) != torch.float64
    tensors = dict(model.teacher.named_parameters()) | dict(model.teacher.named_buffers())
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {torch.float32}
    if model.base_model is student:
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.teacher.state_dict().items())


@pytest.mark.parametrize("model_class", TAUGHT, ids=lambda c: c.__name__)
def test_a_teacher_that_a_checkpoint_lacks_is_fp32(model_class, tmp_path):
    build(model_class).save_encoder(tmp_path)
    model = model_class.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in model.base_model.parameters()} == {torch.bfloat16}


@EVERY
def test_a_tuple_on_request(model_class):
    model = build(model_class)
    torch.manual_seed(0)
    output = model(**inputs_of(model_class))
    torch.manual_seed(0)
    values = model(**inputs_of(model_class), return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(output.to_tuple())
    assert torch.equal(values[0], output[0])


@pytest.mark.parametrize("model_class", [c for c in KINDS if c not in PRETRAINING], ids=lambda c: c.__name__)
def test_attention_matrices_are_those_of_eager_attention(model_class):
    batch, models = inputs_of(model_class), {}
    for implementation in ("eager", "sdpa"):
        models[implementation] = build(model_class, attn_implementation=implementation)
    eager, sdpa = (model(**batch, output_attentions=True) for model in models.values())
    config = models["sdpa"].config
    config = config.of("audio") if model_class is modeling.JointModel else config
    assert len(sdpa.attentions) == config.num_hidden_layers + config.num_prenet_layers
    torch.testing.assert_close(sdpa.attentions, eager.attentions)
    torch.testing.assert_close(sdpa[0], models["sdpa"](**batch)[0])


@pytest.mark.parametrize("scope", ["blocks", "all"])
@pytest.mark.parametrize(
    "model_class",
    [modeling.Data2VecTextForPreTraining, modeling.Data2Vec2TextForPreTraining],
    ids=lambda c: c.__name__,
)
def test_new_tokens_reach_the_teacher(model_class, scope, tmp_path):
    config = config_of(model_class)
    config.objective["ema_scope"], config.mask_token_id = scope, 5
    model = model_class(config)
    old = config.vocab_size
    with torch.no_grad():
        for parameter in model.teacher.parameters():  # a teacher that has moved
            parameter.add_(0.1)
    before = copy.deepcopy(model.teacher.state_dict())
    for tokens in (old + 4, old - 6):
        model.resize_token_embeddings(tokens)
        assert model.config.vocab_size == tokens
        embeddings = {name: t for name, t in model.teacher.state_dict().items() if "word_embeddings" in name}
        assert len(embeddings) == (scope == "all" or model_class in FAMILY_1)
        for name, weight in embeddings.items():
            student = model.base_model.get_input_embeddings().weight
            known = min(old, tokens)
            assert weight.shape == student.shape and torch.equal(weight[:known], before[name][:known])
            assert (
                torch.equal(weight[old:], student[old:]) and not model.get_parameter(f"teacher.{name}").requires_grad
            )
        model.zero_grad()
        model(input_ids=torch.full((2, 11), tokens - 1)).loss.backward()
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(t, model.state_dict()[name]) for name, t in loaded.state_dict().items())


def test_a_mask_token_is_not_cut_off():
    with pytest.raises(ValueError, match="new_num_tokens = 52 leaves out mask_token_id = 52"):
        build(modeling.Data2VecTextForPreTraining).resize_token_embeddings(52)


@EVERY
def test_a_saved_model_is_the_same(model_class, tmp_path):
    model = build_moved(model_class)
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(loaded.get_parameter_or_buffer(name), tensor), name
    assert torch.equal(run(loaded)[0], run(model)[0])
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    ("model_class", "reentrant"),
    [pytest.param(c, False, id=c.__name__) for c in KINDS]
    + [  # torch's older way
        pytest.param(c, True, id=f"{c.__name__}-reentrant", marks=[] if c in PRETRAINING else pytest.mark.slow)
        for c in KINDS
    ],
)
def test_gradient_checkpointing_changes_nothing(model_class, reentrant):
    plain, checkpointed = build_moved(model_class).train(), build_moved(model_class).train()
    checkpointed.activation_checkpointing_enable({"use_reentrant": reentrant})
    assert sum(getattr(module, "gradient_checkpointing", False) for module in checkpointed.modules()) >= 3
    expected = gradients_of(plain)[1]
    assert any(re.search(r"(encoder|trunk)\.layer", name) for name in expected)
    torch.testing.assert_close(gradients_of(checkpointed)[1], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("model_class", "padded"),
    [(c, padded) for c, kind in KINDS.items() for padded in (False, True) if not (padded and kind in UNPADDED)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_sdpa_equals_eager(model_class, padded):
    eager, sdpa = (
        gradients_of(build_moved(model_class, attn_implementation=name).train(), padded=padded)
        for name in ("eager", "sdpa")
    )
    torch.testing.assert_close(sdpa[0][0], eager[0][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sdpa[1], eager[1], atol=1e-5, rtol=1e-5)


@PRETRAINERS
def test_half_precision_agrees(model_class, tmp_path):
    """Floating-point inputs in bf16 as well, as `transformers` wants them."""
    build(model_class).save_pretrained(tmp_path)
    exact, half = (
        model_class.from_pretrained(tmp_path, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16)
    )
    batch = inputs_of(model_class)
    losses = []
    for model, dtype in ((exact, torch.float32), (half, torch.bfloat16)):
        torch.manual_seed(0)
        output = model(**{n: t.to(dtype) if t.is_floating_point() else t for n, t in batch.items()})
        output.loss.backward()
        assert output.loss.dtype == torch.float32
        assert output.all_targets.dtype in (torch.float32, torch.int64)  # ids of tokens
        losses.append(output.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@EVERY
def test_an_index_out_of_range_is_named_with_its_value(model_class):
    model, batch = build(model_class), inputs_of(model_class)
    accepted = inspect.signature(model.forward).parameters
    indices = {name: batch[name] for name in ("input_ids", "categories") if name in batch}
    if "start" in accepted:
        indices["start"] = torch.tensor([0, 36, 5])
    if "labels" in accepted and "CTC" not in model_class.__name__:
        indices["labels"] = torch.zeros(model(**batch).logits.shape[:-1], dtype=torch.long)
    model(**batch | indices)
    for name, right in indices.items():
        for wrong in (-7, 1000):
            spoilt = right.clone()
            spoilt[1] = wrong
            with pytest.raises(ValueError, match=f"^{name} holds {wrong}: must be 0 to "):
                model(**batch | indices | {name: spoilt})


TEXT = [model_class for model_class, kind in tiny_data2vec2.MODELS.items() if kind == "text"]
TEXT_CLASSES = [model_class for model_class in TEXT if model_class not in PRETRAINING]


@pytest.mark.parametrize("model_class", TEXT_CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("padded", [False, True])
def test_text_as_embeddings_and_with_segments(model_class, padded):
    """What PEFT and tokenizers like BERT's pass."""
    model, batch = build(model_class), tiny_data2vec2.inputs("text", padded)
    ids = batch.pop("input_ids")
    expected = model(input_ids=ids, **batch)[0]
    torch.testing.assert_close(
        model(input_ids=ids, token_type_ids=torch.ones_like(ids), inputs_embeds=None, **batch)[0], expected
    )
    embeds = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(inputs_embeds=embeds, **batch)[0], expected)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            model(**wrong, **batch)
    with pytest.raises(ValueError, match=r"inputs_embeds has shape \(3, 24, 24\).*at most 21"):
        model(inputs_embeds=torch.zeros(3, 24, 24))


@pytest.mark.parametrize(
    "model_class", [c for c, kind in tiny_data2vec2.MODELS.items() if kind == "audio"], ids=lambda c: c.__name__
)
def test_speech_has_the_methods_of_speech_encoders(model_class):
    model = build(model_class)
    lengths = torch.tensor([313, 229])
    assert model._get_feat_extract_output_lengths(lengths).tolist() == [30, 22]
    assert model._get_feat_extract_output_lengths(313) == 30
    real = model._get_feature_vector_attention_mask(32, (torch.arange(313) < lengths.unsqueeze(1)).long())
    assert real.sum(1).tolist() == [30, 22] and not real[:, :2].any()  # two extra tokens
    model.freeze_feature_encoder()
    frozen = {name for name, p in model.base_model.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in model.base_model.named_parameters() if "embeddings.conv" in n or "first_conv" in n}


@PRETRAINERS
def test_teacher_learns_nothing_from_gradients(model_class, tmp_path):
    """Also where it was loaded: else DDP waits for gradients that never come."""
    model = build(model_class)
    model.save_pretrained(tmp_path)
    for found in (model, model_class.from_pretrained(tmp_path)):
        learning = {name for name, parameter in found.named_parameters() if parameter.requires_grad}
        assert learning and not any(name.startswith("teacher.") for name in learning)


@pytest.mark.slow  # half a minute each
@PRETRAINERS
def test_torch_compile_traces_a_step_as_one_graph(model_class):
    """A batch as the trainer hands it on: with masks, their counts, and what depends on the update."""
    model, batch = build_moved(model_class), inputs_of(model_class)
    torch.manual_seed(2)
    masked = model(**batch).masked
    batch |= {"masked": masked, "mask_counts": tuple(count_masks(masked, None))}
    if hasattr(model.config, "streams"):
        batch = model.at_step(batch | {"stream_seeds": torch.arange(len(masked))}, 3)
    torch.manual_seed(2)
    exact = model(**batch).loss
    torch._dynamo.reset()
    torch.manual_seed(2)
    loss = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)  # dropout and noise are drawn in another order
    assert [p.grad is None for p in model.parameters() if p.requires_grad].count(False) > 5
