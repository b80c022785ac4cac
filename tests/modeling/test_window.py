"""The teacher's attention window in all six systems, against cut-out neighbourhoods and perturbed tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from data2vec.modeling import ObjectiveConfig
from data2vec.modeling.convert.original import check_expressible
from data2vec.modeling.tokens import Tokens
from data2vec.tests.modeling import test_data2vec as data2vec
from data2vec.tests.modeling import tiny_data2vec2 as data2vec2


TIME, WINDOW = 25, 3  # 25: vision's grid is 5 x 5
SYSTEMS = ["audio_v1", "audio_v2", "text_v1", "text_v2", "vision_v1", "vision_v2"]


def build(system: str, window: int | None, attention: str = "sdpa", **config: Any) -> Any:
    kind, family = system.split("_")
    torch.manual_seed(0)
    if family == "v1":
        model_class, _, config_of = data2vec.KINDS[kind]
        settings = config_of(objective={"teacher_window": window})
        settings.update(config)
    else:
        model_class, config_of = data2vec2.PRETRAINING[kind], data2vec2.CONFIGS[kind]
        settings = config_of(**({"image_size": 20} if kind == "vision" else {}) | config)
        settings.objective["teacher_window"] = window
    settings._attn_implementation = attention
    model = model_class(settings)
    with torch.no_grad():  # away from zeros and ones, so that nothing hides behind them
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.reset_teacher()
    return model.eval()


def without_positions(model: Any) -> Any:
    """The model with a teacher in fp64, to whose blocks tokens come as they are: without convolved positions."""
    kind = model.config.model_type
    model.teacher.double()
    if kind == "data2vec-audio":
        for parameter in model.teacher.encoder.pos_conv_embed.parameters():
            parameter.data.zero_()
    elif not kind.endswith(("-text", "data2vec-vision")):
        model.teacher.positions = None
    return model


def features(model: Any, tokens: Tensor, real: Tensor | None = None) -> list[Tensor]:
    """The teacher's features of every block: `(rows, time, dim)` each, from tokens in front of the blocks."""
    with torch.no_grad():
        if hasattr(model, "run_teacher"):
            return model.run_teacher(Tokens(tokens, (5, 5), real), keep_layers=True).layers
        if model.config.model_type == "data2vec-vision":
            cls = torch.ones(len(tokens), 1, tokens.shape[2], dtype=tokens.dtype)
            targets = model.targets(None, True, in_front=1)
            return model._add_targets(targets, torch.cat((cls, tokens), 1), (20, 20)).layers
        return model._add_targets(model.targets(real, True), tokens, real).layers


def random_tokens(model: Any, rows: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, TIME, model.config.hidden_size, generator=generator, dtype=torch.float64)


def changed(before: Tensor, after: Tensor) -> list[bool]:
    return ((after - before).abs().amax((0, 2)) > 1e-13).tolist()


BIASES: list[tuple[str, dict[str, Any]]] = [(system, {}) for system in SYSTEMS] + [
    ("vision_v1", {"use_relative_position_bias": True}),
    ("vision_v1", {"use_shared_relative_position_bias": False}),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("system", "config"), BIASES)
def test_a_token_is_felt_up_to_the_window_and_each_block_adds_one(system, config, attention):
    model = without_positions(build(system, WINDOW, attention, **config))
    tokens, place = random_tokens(model), 11
    moved = tokens.clone()
    moved[:, place] = -2 * moved[:, place].flip(-1)
    prenet = getattr(model.config, "num_prenet_layers", 0)
    for number, (before, after) in enumerate(zip(features(model, tokens), features(model, moved), strict=True)):
        reach = WINDOW * (prenet + number + 1)
        assert changed(before, after) == [abs(place - t) <= reach for t in range(TIME)], number


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_first_block_sees_a_neighbourhood_as_if_it_were_all(system):
    """A token's feature is that of the cut-out neighbourhood through the same teacher without a window."""
    config = {} if system.endswith("v1") else {"num_prenet_layers": 0}
    if system == "vision_v1":  # its position bias belongs to the whole grid
        config = {"use_shared_relative_position_bias": False}
    model = without_positions(build(system, WINDOW, **config))
    tokens = random_tokens(model)
    windowed = features(model, tokens)[0]
    model.objective.teacher_window = None
    everything = features(model, tokens)[0]
    for t in range(TIME):
        first = max(t - WINDOW, 0)
        alone = features(model, tokens[:, first : t + WINDOW + 1])[0][:, t - first]
        torch.testing.assert_close(windowed[:, t], alone, atol=1e-10, rtol=0)
    assert (windowed - everything).abs().max() > 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("system", [system for system in SYSTEMS if "vision" not in system])
def test_padding_and_window_combine(system, attention):
    """A padded row has the features of the row alone, also where all of a padded step's window is padding."""
    model = without_positions(build(system, 2, attention))
    tokens, length = random_tokens(model), 14
    real = torch.ones(2, TIME, dtype=torch.bool)
    real[1, length:] = False
    padded = tokens.masked_fill(~real.unsqueeze(-1), 7.0)
    alone = features(model, tokens[1:, :length])
    whole = features(model, tokens[:1])
    for number, layer in enumerate(features(model, padded, real)):
        assert layer.isfinite().all()
        torch.testing.assert_close(layer[1:, :length], alone[number], atol=1e-10, rtol=0)
        torch.testing.assert_close(layer[:1], whole[number], atol=1e-10, rtol=0)


def inputs_of(system: str) -> dict[str, Tensor]:
    kind, family = system.split("_")
    if family == "v1":
        inputs = data2vec.inputs(kind)
        del inputs["masked"]
        return inputs
    if kind == "vision":
        return {"pixel_values": torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))}
    return data2vec2.inputs(kind, padded=True)


def output_of(model: Any, system: str) -> Any:
    torch.manual_seed(2)  # of masks and noise
    return model(**inputs_of(system))


@pytest.mark.parametrize("system", SYSTEMS)
def test_only_the_targets_change(system):
    restricted, free = build(system, 1), build(system, None)
    for name, tensor in free.state_dict().items():
        assert torch.equal(tensor, restricted.state_dict()[name])
    a, b = output_of(restricted, system), output_of(free, system)
    assert torch.equal(a.predictions, b.predictions) and torch.equal(a.last_hidden_state, b.last_hidden_state)
    assert (a.targets - b.targets).abs().max() > 1e-3
    a.loss.backward()
    assert a.loss.isfinite()
    # nor does the encoder that a run leaves
    plain = (model.base_model(**inputs_of(system)).last_hidden_state for model in (restricted, free))
    assert torch.equal(*plain)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_window_as_long_as_the_input_is_none(system):
    whole, free = build(system, 200), build(system, None)
    a, b = output_of(whole, system).targets, output_of(free, system).targets
    if system.startswith("vision") or system == "audio_v2":  # extra tokens still read each other alone
        assert (a - b).abs().max() > 1e-4
        return
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_window_is_kept_with_the_objective_and_a_slip_is_refused():
    masking = {"method": "span", "prob": 0.65, "length": 10}
    assert ObjectiveConfig.from_dict({"masking": masking, "teacher_window": 0}).to_dict()["teacher_window"] == 0
    with pytest.raises(ValueError, match=r"objective.teacher_window = -1: must be .* null for everything"):
        ObjectiveConfig.from_dict({"masking": masking, "teacher_window": -1})
    with pytest.raises(ValueError, match="teacher_window"):
        ObjectiveConfig.from_dict({"masking": masking, "teacher_window": 2.5})


def test_flash_attention_takes_no_window():
    model = build("audio_v1", 2)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"teacher_window = 2.*'flash_attention_2'"):
        features(model, torch.randn(2, TIME, 24))


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_originals_format_has_no_window(system):
    model = build(system, 2)
    with pytest.raises(ValueError, match="teacher_window = 2 cannot be written"):
        check_expressible(model.objective, model.config)
