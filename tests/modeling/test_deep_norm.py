"""DeepNorm, folded into blocks that know none, against blocks written out as the paper has them."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Data2VecAudioModel

from data2vec.modeling import Data2VecAudioForPreTraining
from data2vec.modeling.deep_norm import alpha, beta
from data2vec.modeling.targets import BlockFeatures, TopKAverage
from data2vec.pretraining.engine.param_groups import split_param_groups
from data2vec.tests.modeling.test_data2vec import audio_config, inputs


BLOCKS = 3
ALPHA = (2 * BLOCKS) ** (1 / 4)


def build(**kwargs: Any) -> Data2VecAudioForPreTraining:
    torch.manual_seed(0)
    return Data2VecAudioForPreTraining(audio_config(deep_norm=True, **kwargs))


class WrittenOut(nn.Module):
    """Blocks with alpha in the residual, LN(alpha * x + attention(x)) and LN(alpha * x + ffn(x)); unfolded weights."""

    def __init__(self, layers: nn.ModuleList, heads: int):
        super().__init__()
        self.layers, self.heads = copy.deepcopy(layers), heads
        with torch.no_grad():
            for layer in self.layers:
                for last in (layer.attention.out_proj, layer.feed_forward.output_dense):
                    last.weight *= ALPHA
                    last.bias *= ALPHA

    def forward(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The output of every block and of its FFN."""
        outputs = []
        for layer in self.layers:
            a = layer.attention
            query, key, value = (
                linear(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for linear in (a.q_proj, a.k_proj, a.v_proj)
            )
            weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(-1)
            mixed = a.out_proj((weights @ value).transpose(1, 2).flatten(2))
            hidden = layer.layer_norm(ALPHA * hidden + mixed)
            ffn = layer.feed_forward.output_dense(F.gelu(layer.feed_forward.intermediate_dense(hidden)))
            hidden = layer.final_layer_norm(ALPHA * hidden + ffn)
            outputs.append((hidden, ffn))
        return outputs


def tokens() -> Tensor:
    return torch.randn(5, 11, 24, generator=torch.Generator().manual_seed(1))


def folded(layers: nn.ModuleList, hidden: Tensor) -> Tensor:
    for layer in layers:
        hidden = layer(hidden)
    return hidden


def test_the_numbers_of_the_paper():
    assert alpha(12) == pytest.approx(2.2134, abs=1e-4) and beta(12) == pytest.approx(0.3195, abs=1e-4)


def test_folded_blocks_compute_what_the_written_out_ones_do():
    model = build().eval()
    layers = model.base_model.encoder.layers
    written = WrittenOut(layers, model.config.num_attention_heads)
    expected = written(tokens())[-1][0]
    torch.testing.assert_close(folded(layers, tokens()), expected, atol=5e-5, rtol=0)  # epsilons differ
    for layer in written.layers:
        layer.layer_norm.eps = layer.final_layer_norm.eps = ALPHA**2 * model.config.layer_norm_eps
    torch.testing.assert_close(folded(layers, tokens()), written(tokens())[-1][0], atol=2e-6, rtol=0)
    plain = folded(Data2VecAudioForPreTraining(audio_config()).base_model.eval().encoder.layers, tokens())
    assert (plain - expected).abs().max() > 0.1


def test_the_norm_of_the_targets_takes_the_factor_away():
    """AudioSet's: K = all, instance norm a layer, mean, layer norm. With wide branches, where epsilon is nothing."""
    model = build(objective={"top_k_layers": BLOCKS, "target_norm": "layer"}).eval()
    with torch.no_grad():
        for layer in model.base_model.encoder.layers:
            layer.feed_forward.output_dense.weight *= 100
    model.reset_teacher()
    written = WrittenOut(model.base_model.encoder.layers, model.config.num_attention_heads)
    expected = TopKAverage(model.objective, BLOCKS)
    for _, ffn in written(tokens()):
        expected.add(BlockFeatures(*[ffn.detach()] * 4))
    targets = model.targets(None, False)
    with torch.no_grad():
        model.add_targets(targets, model.teacher.encoder.layers, tokens(), attention_mask=None)
    torch.testing.assert_close(targets.result(), expected.result(), atol=1e-4, rtol=0)


def test_weights_start_with_the_variances_of_the_paper():
    config = audio_config(deep_norm=True)
    config.hidden_size, config.intermediate_size = 192, 320
    torch.manual_seed(0)
    model = Data2VecAudioForPreTraining(config)
    gain, fold = (8 * BLOCKS) ** (-1 / 4), 1 / ALPHA
    for which in (model.base_model.encoder.layers, model.teacher.encoder.layers):
        for layer in which:
            attention, ffn = layer.attention, layer.feed_forward
            for linear, scale in (
                (attention.q_proj, 1.0),
                (attention.k_proj, 1.0),
                (attention.v_proj, gain),
                (attention.out_proj, gain * fold),
                (ffn.intermediate_dense, gain),
                (ffn.output_dense, gain * fold),
            ):
                xavier = math.sqrt(2 / sum(linear.weight.shape))
                assert linear.weight.std().item() == pytest.approx(scale * xavier, rel=0.03)
                assert not linear.bias.any()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_steps_of_adam_are_those_of_the_written_out_network(weight_decay):
    model = build().double().eval()
    layers = model.base_model.encoder.layers
    with torch.no_grad():
        for layer in layers:
            for name, parameter in layer.named_parameters():
                if name.endswith("bias") and "norm" not in name:
                    parameter.normal_(0, 0.1)
    for layer in layers:  # a factor on the input of a norm is seen by its epsilon
        layer.layer_norm.eps = layer.final_layer_norm.eps = 1e-12
    written = WrittenOut(layers, model.config.num_attention_heads)

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=weight_decay, eps=1e-15)

    ours, theirs = optimizer(layers.parameters()), optimizer(written.parameters())
    names = nn.Module()
    names.layers = layers
    split_param_groups(ours, names, model.rate_factor)
    assert len(ours.param_groups) == 2
    hidden, wanted = tokens().double(), torch.randn(5, 11, 24, generator=torch.Generator().manual_seed(2)).double()
    start = folded(layers, hidden).detach()
    for _ in range(4):
        for network, steps in ((lambda: folded(layers, hidden), ours), (lambda: written(hidden)[-1][0], theirs)):
            steps.zero_grad()
            (network() - wanted).square().mean().backward()
            steps.step()
    expected = written(hidden)[-1][0]
    assert (expected - start).abs().max() > 0.1
    torch.testing.assert_close(folded(layers, hidden), expected, atol=1e-6, rtol=0)


def test_a_model_without_shares_keeps_its_groups():
    model = Data2VecAudioForPreTraining(audio_config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    split_param_groups(optimizer, model, model.rate_factor)
    assert len(optimizer.param_groups) == 1


def test_what_is_saved_opens_in_stock_transformers_and_computes_the_same(tmp_path):
    model = build().eval()
    model.save_encoder(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "whole")
    values = inputs("audio")["input_values"]
    expected = model.base_model(values).last_hidden_state
    stock = Data2VecAudioModel.from_pretrained(tmp_path / "encoder").eval()
    torch.testing.assert_close(stock(values).last_hidden_state, expected, atol=1e-5, rtol=0)
    again = Data2VecAudioForPreTraining.from_pretrained(tmp_path / "whole").eval()  # loaded weights are not started
    assert again.config.deep_norm
    torch.testing.assert_close(again.base_model(values).last_hidden_state, expected, atol=1e-5, rtol=0)
    from_encoder = Data2VecAudioForPreTraining.from_pretrained(tmp_path / "encoder").eval()
    torch.testing.assert_close(from_encoder.base_model(values).last_hidden_state, expected, atol=1e-5, rtol=0)


def test_a_slip_is_refused():
    with pytest.raises(ValueError, match="deep_norm = 'yes': must be true or false"):
        Data2VecAudioForPreTraining(audio_config(deep_norm="yes"))
