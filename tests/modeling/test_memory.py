"""What layers keep for the gradient, and that keeping less changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Data2VecAudioModel, Data2VecTextModel

from data2vec.modeling import conv
from data2vec.modeling.recompute import recompute_activation
from tests.modeling import test_data2vec as v1
from tests.modeling import tiny_data2vec2 as v2


def kept_bytes(work: Any, model: nn.Module) -> int:
    """Of all tensors, weights aside, that autograd holds after `work`; what shares memory counts once."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held: dict[int, Tensor] = {}

    def hold(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        alive = work()
    del alive
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in held.items() if pointer not in weights)


@pytest.mark.parametrize("family", ["1", "2.0"])
def test_a_layer_of_the_front_end_keeps_two_tensors(family: str) -> None:
    """What its norm reads and what the next convolution reads; not what is between them, and no windows."""
    samples = torch.randn(3, 4001)
    if family == "1":
        model = v1.build("audio").train()
        front_end: Any = model.data2vec_audio.feature_extractor
    else:
        model = v2.build(v2.PRETRAINING["audio"]).train()
        front_end = model.data2vec2.embeddings
    config, frames, length = model.config, 0, samples.shape[1]
    for dim, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        frames += 3 * length * dim
    assert kept_bytes(lambda: front_end(samples), model) < 4 * (
        2.6 * frames + 2 * samples.numel()
    )  # norms keep two numbers per frame


def test_the_front_end_of_data2vec_1_does_what_the_stock_one_does() -> None:
    model = v1.build("audio").train()
    stock = Data2VecAudioModel(model.config).train()
    stock.load_state_dict(model.data2vec_audio.state_dict())
    ran = []
    for encoder in (model.data2vec_audio, stock):
        encoder.zero_grad()
        features = encoder.feature_extractor(torch.linspace(-1, 1, 3 * 1201).sin().view(3, 1201))
        hidden = encoder.feature_projection(features.transpose(1, 2))[0]
        positions = encoder.encoder.pos_conv_embed(hidden)
        positions.square().sum().backward()
        parts = (encoder.feature_extractor, encoder.encoder.pos_conv_embed)
        gradients = [weight.grad for part in parts for weight in part.parameters()]
        ran.append((positions, [gradient / gradient.abs().max() for gradient in gradients]))
    torch.testing.assert_close(*ran, rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("piece", [1, 4, 7])
def test_pieces_of_windows_change_nothing(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "PIECE", piece)
    tokens, weight = torch.randn(2, 23, 5, requires_grad=True), torch.randn(3, 5, 4, requires_grad=True)
    ours = conv.convolve(tokens, weight, stride=2)
    plain = nn.functional.conv1d(tokens.transpose(1, 2), weight, stride=2).transpose(1, 2)
    gradient = torch.randn_like(plain)
    grads = [torch.autograd.grad(made, (tokens, weight), gradient) for made in (ours, plain)]
    torch.testing.assert_close((ours, grads[0]), (plain, grads[1]), rtol=1e-4, atol=1e-5)


class FeedForward(nn.Module):
    def __init__(self, again: bool):
        super().__init__()
        self.again, self.wide, self.narrow = again, nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.again:
            return self.narrow(nn.functional.gelu(self.wide(tokens)))
        with recompute_activation(nn.functional.gelu, self.wide(tokens)) as activated:
            return self.narrow(activated)


def two_feed_forwards() -> list[FeedForward]:
    plain, again = FeedForward(False), FeedForward(True)
    again.load_state_dict(plain.state_dict())
    return [plain, again]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_an_activation_that_is_made_again_changes_nothing(precision: torch.dtype, checkpointed: bool) -> None:
    tokens, ran = torch.randn(3, 5, 8), []
    for model in two_feed_forwards():
        read = tokens.clone().requires_grad_()
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            out = checkpoint(model, read, use_reentrant=False) if checkpointed else model(read)
        first = torch.autograd.grad(out.float().square().sum(), [read, *model.parameters()], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), read)  # a gradient of gradients goes through it too
        ran.append((out, *first, *second))
    assert all(map(torch.equal, *ran))


def test_an_activation_that_is_made_again_is_not_kept() -> None:
    tokens = torch.randn(3, 5, 8)
    plain, again = (kept_bytes(lambda model=model: model(tokens), model) for model in two_feed_forwards())
    assert plain - again == 3 * 5 * 32 * 4
    checkpointed = [
        kept_bytes(lambda model=model: checkpoint(model, tokens.clone().requires_grad_(), use_reentrant=False), model)
        for model in two_feed_forwards()
    ]
    assert (
        checkpointed[0] == checkpointed[1] == tokens.numel() * 4
    )  # nothing of it is held past a checkpoint around it


def test_the_blocks_of_text_do_what_the_stock_ones_do() -> None:
    model = v1.build("text").train()
    stock = Data2VecTextModel(model.config, add_pooling_layer=False).train()
    stock.load_state_dict(model.data2vec_text.state_dict())
    tokens, ran, held = torch.randn(3, 7, model.config.hidden_size), [], []
    for encoder in (stock, model.data2vec_text):
        layer = encoder.encoder.layer[0]
        held.append(kept_bytes(lambda layer=layer: layer.feed_forward_chunk(tokens), encoder))
        torch.manual_seed(0)  # its dropout
        out = layer.feed_forward_chunk(tokens)
        out.square().sum().backward()
        ran.append([out, *(weight.grad for weight in layer.output.parameters())])
    assert all(map(torch.equal, *ran))
    assert held[0] - held[1] == 4 * 3 * 7 * model.config.intermediate_size
