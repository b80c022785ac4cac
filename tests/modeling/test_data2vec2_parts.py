"""The pieces of the data2vec 2.0 encoders against something independent."""

import math

import pytest
import torch
from torch.nn import functional as F

from data2vec.modeling.attention import Alibi, alibi_bias, alibi_slopes, attention_weights
from data2vec.modeling.configuration_decoder import ConvDecoderConfig
from data2vec.modeling.conv import TokenConv
from data2vec.modeling.decoder import build_decoder
from data2vec.modeling.embed_audio import AudioEmbeddings
from data2vec.modeling.embed_image import ImageEmbeddings, SinCosPositions
from data2vec.modeling.encoder import Data2Vec2Block
from data2vec.modeling.gather import gather, scatter, select_visible
from data2vec.modeling.tokens import Tokens
from tests.modeling.tiny_data2vec2 import PRETRAINING, audio_config, build, inputs, same, text_config, vision_config


# Dropping


def test_kept_tokens_by_hand():
    torch.manual_seed(0)
    tokens, visible = torch.randn(2, 7, 3), torch.rand(6, 7) < 0.5
    visible[:, 2] = True
    kept = select_visible(visible)
    assert kept.real is not None  # rows differ
    picked = gather(tokens, kept.where)
    back = scatter(picked, visible, torch.full((6, 7, 3), 9.0))
    for row in range(6):
        places = [i for i in range(7) if visible[row, i]]
        assert kept.where[row, : len(places)].tolist() == places
        assert kept.real[row].tolist() == [i < len(places) for i in range(kept.where.shape[1])]
        for i in range(7):
            expected = tokens[row // 3, i] if visible[row, i] else torch.full((3,), 9.0)
            assert torch.equal(back[row, i], expected)


def test_equal_counts_need_no_filler():
    kept = select_visible(torch.tensor([[True, False, True], [False, True, True]]))
    assert kept.real is None and kept.where.tolist() == [[0, 2], [1, 2]]


def test_gradient_reaches_kept_tokens_once_a_view():
    tokens = torch.randn(2, 5, 3, requires_grad=True)
    visible = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]).bool()
    picked = gather(tokens, select_visible(visible).where)
    scatter(picked, visible, torch.zeros(4, 5, 3)).sum().backward()
    assert tokens.grad[..., 0].tolist() == [[2, 1, 1, 0, 0], [0, 0, 0, 2, 2]]


# Convolutions


@pytest.mark.parametrize("kernel", [3, 4])
def test_convolution_of_a_sequence(kernel):
    torch.manual_seed(0)
    layer, tokens = TokenConv(6, 10, kernel, 2, axes=1), torch.randn(3, 7, 6)
    out = F.conv1d(
        tokens.transpose(1, 2), layer.conv.weight.squeeze(2), layer.conv.bias, padding=kernel // 2, groups=2
    )
    expected = F.gelu(F.layer_norm(out[..., :7].transpose(1, 2), (10,)))
    same(layer(tokens, (7,)), expected)


@pytest.mark.parametrize("kernel", [3, 4])
def test_convolution_of_an_image(kernel):
    torch.manual_seed(0)
    layer, tokens = TokenConv(6, 10, kernel, 2, axes=2), torch.randn(2, 15, 6)
    planes = tokens.transpose(1, 2).reshape(2, 6, 3, 5)  # height 3, width 5
    out = F.conv2d(planes, layer.conv.weight, layer.conv.bias, padding=kernel // 2, groups=2)[:, :, :3, :5]
    expected = F.gelu(F.layer_norm(out.permute(0, 2, 3, 1).reshape(2, 15, 10), (10,)))
    same(layer(tokens, (3, 5)), expected)


@pytest.mark.parametrize(("residual", "dim", "added"), [(True, 8, [0, 1]), (True, 4, [1]), (False, 8, [])])
def test_decoder_has_residuals_where_widths_agree(residual, dim, added):
    torch.manual_seed(0)
    config = ConvDecoderConfig(dim=dim, layers=2, kernel=3, groups=2, residual=residual)
    decoder, tokens = (
        build_decoder(config, audio_config(hidden_size=8, num_attention_heads=2, num_conv_pos_embedding_groups=2), 2),
        torch.randn(3, 7, 8),
    )
    expected = tokens
    for number, layer in enumerate(decoder.layers):
        filled = layer(expected, (7,))
        expected = filled + expected if number in added else filled
    same(decoder(Tokens(tokens, (7,))), expected)
    assert [layer.out_features for layer in decoder.projection if hasattr(layer, "out_features")] == [2 * dim, 8]


def test_front_end_is_a_stack_of_convolutions():
    torch.manual_seed(0)
    embeddings, samples = AudioEmbeddings(audio_config()), torch.randn(2, 97)
    hidden = F.conv1d(samples.unsqueeze(1), embeddings.first_conv.weight.unsqueeze(1), stride=5)
    hidden = F.gelu(F.layer_norm(hidden.transpose(1, 2), (10,))).transpose(1, 2)
    hidden = F.conv1d(hidden, embeddings.convs[0].weight.squeeze(2), stride=2)
    hidden = F.gelu(F.layer_norm(hidden.transpose(1, 2), (14,)))
    expected = embeddings.projection(F.layer_norm(hidden, (14,)))
    tokens, grid, *_ = embeddings(samples)
    same(tokens, expected)
    assert grid == (expected.shape[1],) == (embeddings.num_frames(97),)
    assert embeddings.num_frames(torch.tensor([97, 17, 16])).tolist() == [grid[0], 1, 0]


def test_patches_are_in_rows():
    embeddings = ImageEmbeddings(vision_config())
    image = torch.zeros(1, 3, 12, 20)
    image[:, :, 4:8, 16:20] = 1.0  # the second row, the fifth column
    tokens, grid, *_ = embeddings(image)
    assert grid == (3, 5)
    differs = (tokens[0] - tokens[0, 0]).abs().sum(-1) > 0
    assert differs.nonzero().flatten().tolist() == [1 * 5 + 4]


# Positions


@pytest.mark.parametrize("kind", ["audio", "text", "eat"])
def test_a_mask_of_another_shape_than_the_inputs_is_refused(kind):
    model, (name, values) = build(PRETRAINING[kind]), next(iter(inputs(kind).items()))
    rows, steps = values.shape[:2]
    for shape in ((rows, steps - 1), (1, steps), (steps,)):
        with pytest.raises(ValueError, match=rf"attention_mask has shape .*must be \({rows}, {steps}\), .* of {name}"):
            model.base_model(values, attention_mask=torch.ones(shape, dtype=torch.long))


def sincos(row: float, column: float, dim: int) -> list[float]:
    rates = [10000 ** (-i / (dim // 4)) for i in range(dim // 4)]
    return [wave(at * rate) for at in (column, row) for wave in (math.sin, math.cos) for rate in rates]


def test_positions_of_the_trained_grid():
    positions = SinCosPositions(vision_config())
    expected = [sincos(row, column, 24) for row in range(3) for column in range(5)]
    same(positions(Tokens(torch.zeros(1, 15, 24), (3, 5)))[0], torch.tensor(expected), 1e-6)


def test_positions_of_another_grid_lie_between_those_of_the_trained_one():
    """Twice as fine: patch 0 lies a quarter before the old patch 0, patch 1 a quarter behind it."""
    positions = SinCosPositions(vision_config())
    table = positions(Tokens(torch.zeros(1, 60, 24), (6, 10)))[0]
    expected = [sincos(row / 2 - 0.25, column / 2 - 0.25, 24) for row in range(6) for column in range(10)]
    same(table, torch.tensor(expected), 1e-6)


@pytest.mark.parametrize(("heads", "expected"), [(4, [1 / 4, 1 / 16, 1 / 64, 1 / 256]), (3, [1 / 16, 1 / 256, 1 / 4])])
def test_alibi_slopes(heads, expected):
    same(alibi_slopes(heads), torch.tensor(expected), 0.0)


def test_alibi_bias_of_kept_tokens():
    alibi = Alibi(3)
    with torch.no_grad():
        alibi.scale.copy_(torch.tensor([1.0, 2.0, -1.0]))
    index = torch.tensor([[0, 2, 7], [1, 3, 4]])
    bias = alibi_bias(*alibi(index, extra=2))
    slopes = [1 / 16, 1 / 256, 1 / 4]
    for row in range(2):
        for head, scale in enumerate([1.0, 2.0, 0.0]):  # a scale below 0 counts as 0
            for i in range(5):
                for j in range(5):
                    near = min(i, j) < 2
                    distance = 0 if near else abs(int(index[row, i - 2]) - int(index[row, j - 2]))
                    assert bias[row, head, i, j].item() == pytest.approx(-slopes[head] * scale * distance)
    bias.sum().backward()
    assert alibi.scale.grad.abs().min() == 0 < alibi.scale.grad.abs().max()


# Block


def test_stochastic_depth_keeps_the_mean_and_drops_rows():
    torch.manual_seed(0)
    block = Data2Vec2Block(text_config(attn_implementation="eager"), drop_path_rate=0.25)
    branch = torch.ones(2000, 1, 1)
    dropped = block._drop_path(branch)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert block.eval()._drop_path(branch) is branch


def test_attention_by_hand():
    torch.manual_seed(0)
    block = Data2Vec2Block(text_config(attn_implementation="eager"), drop_path_rate=0.0).eval()
    hidden, distance, slopes = torch.randn(2, 5, 24), torch.rand(2, 1, 5, 5), torch.rand(3)
    attended, weights = block.attention(hidden, distance, slopes, None, explicit=True)
    bias = alibi_bias(distance, slopes)
    query, key, value = (
        F.linear(hidden, w, b)
        for w, b in zip(block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3), strict=True)
    )
    mixed = torch.zeros(2, 5, 24)
    for row in range(2):
        for head in range(3):
            part = slice(8 * head, 8 * head + 8)
            scores = query[row, :, part] @ key[row, :, part].T / 8**0.5 + bias[row, head]
            same(weights[row, head], scores.softmax(-1))
            mixed[row, :, part] = scores.softmax(-1) @ value[row, :, part]
    same(attended, block.attention.output(mixed))


@pytest.mark.parametrize("rows", [2, 1], ids=["distances a row", "the same distances"])
def test_gradients_of_attention_weights(rows):
    """The gradient written by hand against automatic differentiation of the formula, that of the slopes included."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 7, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    distance, slopes = torch.rand(rows, 1, 7, 7, dtype=torch.float64), torch.rand(3).double().requires_grad_()
    mask = torch.arange(7).expand(2, 1, 1, 7) < torch.tensor([7, 4]).view(2, 1, 1, 1)
    got = attention_weights(query, key, 0.3, distance, slopes, mask)
    scores = 0.3 * query @ key.transpose(2, 3) - slopes.view(1, 3, 1, 1) * distance
    expected = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    same(got, expected, 1e-12)
    inputs = (query, key, slopes)
    gradients = [torch.autograd.grad((weights @ value).square().sum(), inputs) for weights in (got, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        same(ours, theirs, 1e-11)
