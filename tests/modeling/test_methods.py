"""What states a method: blocks, positions and decoders by name, what student and teacher read, scores and terms."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from data2vec.modeling import Data2Vec2AudioForPreTraining, Data2Vec2VisionForPreTraining, ObjectiveConfig
from data2vec.modeling.decoder import build_decoder
from data2vec.modeling.encoder import Data2Vec2Encoder
from data2vec.modeling.gather import count_masks
from data2vec.modeling.loss import LossTerm
from data2vec.modeling.masking import BlockMasking, mask_seeds
from data2vec.modeling.targets import BlockFeatures, TopKAverage
from data2vec.modeling.tokens import Tokens
from tests.modeling.tiny_data2vec2 import audio_config, build, inputs, objective, same, vision_config


TRANSFORMER = {"method": "transformer", "layers": 2, "num_attention_heads": 2, "intermediate_size": 29}


def vision(**changes):
    return build(Data2Vec2VisionForPreTraining, objective=objective(type(vision_config()), **changes))


def eager(**fields):
    """A configuration for parts that no model holds."""
    config = vision_config(**fields)
    config._attn_implementation = "eager"
    return config


def masks(views: int | None = 2) -> torch.Tensor:
    noise = torch.rand(3, views or 1, 15, generator=torch.Generator().manual_seed(4))
    return (noise.argsort(-1) < 8) if views else (noise.argsort(-1) < 8).squeeze(1)


def stock_block(block: nn.Module, heads: int) -> nn.TransformerEncoderLayer:
    """torch's own block with the same weights."""
    dim, inside = block.output.out_features, block.output.in_features
    stock = nn.TransformerEncoderLayer(dim, heads, inside, 0.0, "gelu", norm_first=True, batch_first=True)
    stock.self_attn.in_proj_weight, stock.self_attn.in_proj_bias = block.attention.qkv.weight, block.attention.qkv.bias
    stock.self_attn.out_proj = block.attention.output
    stock.linear1, stock.linear2 = block.intermediate, block.output
    stock.norm1, stock.norm2 = block.attention_norm, block.output_norm
    return stock.train()  # whose fast path in eval mode computes the same in another way


@pytest.mark.parametrize("every", [False, True])
def test_pre_norm_blocks_are_torchs_own(every):
    """Norm, attention, add, norm, feed-forward, add; a norm at the end; positions once or in front of every block."""
    torch.manual_seed(0)
    config = eager(layer_norm_first=True, add_positions_to_every_layer=every, num_extra_tokens=2)
    encoder = Data2Vec2Encoder(config).eval()
    assert encoder.norm is None
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.2)
    tokens, positions = torch.randn(3, 7, 24), torch.randn(1, 7, 24)
    added = F.pad(positions, (0, 0, 2, 0))
    hidden = torch.cat((encoder.extra_tokens.expand(3, -1, -1), tokens), dim=1)
    states = []
    for number, block in enumerate([*encoder.prenet, *encoder.layers]):
        hidden = stock_block(block, 3)(hidden + added if every or number == 0 else hidden)
        states.append(hidden)
    output = encoder(tokens, positions=positions, output_hidden_states=True)
    same(output.hidden_states[1:], tuple(states))
    same(output.last_hidden_state, F.layer_norm(hidden, (24,), *encoder.final_norm.parameters(), 1e-6))


def test_pre_norm_taps():
    """What follows the residual is the block's end; the others are what was added."""
    block = Data2Vec2Encoder(eager(layer_norm_first=True)).layers[0].eval()
    hidden = torch.randn(2, 5, 24)
    features = BlockFeatures(*block(hidden)[:4])
    assert torch.equal(features.ffn_residual, features.end_of_block)
    same(hidden + features.self_attention + features.ffn, features.end_of_block)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_transformer_decoder_reads_states_and_mask_tokens(first, every):
    """Hidden positions start as the mask token, all get their positions, and padding changes nothing."""
    numbers = {**TRANSFORMER, "add_positions_to_every_layer": every}
    config = eager(layer_norm_first=first, objective=objective(type(vision_config()), decoder=numbers))
    decoder = build_decoder(ObjectiveConfig.from_dict(config.objective).decoder, config, 1).eval()
    assert len(decoder.layers) == 2 and decoder.layers[0].output.in_features == 29
    assert decoder.layers[0].attention.head_dim == 12 and (decoder.final_norm is not None) == first
    values, positions = torch.randn(4, 6, 24), torch.randn(2, 6, 24)
    real = torch.arange(6) < torch.tensor([[6], [6], [4], [4]])
    out = decoder(Tokens(values, (6,), real), positions)
    hidden = values[2:, :4]
    for number, layer in enumerate(decoder.layers):
        hidden = layer(hidden + positions[1:, :4] if every or not number else hidden)[3]
    hidden = hidden if decoder.final_norm is None else decoder.final_norm(hidden)
    same(out[2:, :4], hidden)


def test_dropped_tokens_come_back_as_mask_tokens():
    model, masked = vision(decoder=TRANSFORMER), masks()
    out = model(**inputs("vision"), masked=masked, output_decoder_states=True)
    rows, token = masked.flatten(0, 1), model.decoder.mask_token.weight
    assert torch.equal(out.decoder_input[rows], token.expand(int(rows.sum()), -1))
    same(out.decoder_input[~rows], out.last_hidden_state[:, 1:].flatten(0, 1))
    out.loss.backward()
    assert token.grad.abs().sum() > 0


@pytest.mark.parametrize("views", [2, None])
def test_without_decoder_the_student_sees_mask_tokens(views):
    """A plain pass over the sequence with the mask token in place of hidden tokens."""
    model, masked = vision(decoder=None, views=views, head_layers=2), masks(views)
    out = model(**inputs("vision"), masked=masked)
    encoder, rows = model.base_model, masked.reshape(-1, 15)
    tokens = encoder.embed((inputs("vision")["pixel_values"],))
    values = tokens.values.repeat_interleave(len(rows) // 3, dim=0)
    values = torch.where(rows.unsqueeze(-1), model.decoder.mask_token.weight, values)
    states = encoder.encoder(values + encoder.positions(tokens)).last_hidden_state
    same(out.last_hidden_state, states)
    same(out.predictions, model.decoder.projection(states[:, 1:][rows]))
    assert out.masked.shape == masked.shape
    with pytest.raises(ValueError, match="pass bool"):
        model(**inputs("vision"), masked=masked.flatten())


def test_without_decoder_padding_changes_nothing():
    fields = objective(type(build(Data2Vec2AudioForPreTraining).config), decoder=None)
    model = build(Data2Vec2AudioForPreTraining, objective=fields)
    padded = inputs("audio", padded=True)  # the second row has 22 of 30 frames
    masked = torch.zeros(3, 2, 30, dtype=torch.bool)
    masked[:, 0, 3:9] = masked[:, 1, 11:17] = True
    both = model(**padded, masked=masked)
    alone = model(padded["input_values"][1:2, :229], masked=masked[1:2, :, :22])
    same(both.predictions[12:24], alone.predictions)
    same(both.targets[12:24], alone.targets)


# Scored positions


def test_loss_is_taken_where_it_is_asked_for():
    """Also at positions that the student saw; what is hidden stays what `masked` says."""
    model, masked = vision(), masks()
    scored = masked.clone()
    scored[:, :, :5] = True
    plain = model(**inputs("vision"), masked=masked, mask_noise=torch.zeros(3, 2, 15, 24), output_decoder_states=True)
    counts = count_masks(masked, scored=scored)
    assert counts.scored == scored.sum() > masked.sum()
    wide = model(
        **inputs("vision"), masked=masked, mask_noise=torch.zeros(3, 2, 15, 24), scored=scored, mask_counts=counts
    )
    assert torch.equal(wide.masked, masked) and torch.equal(wide.last_hidden_state, plain.last_hidden_state)
    same(wide.predictions, plain.decoder_output.view(3, 2, 15, 24)[scored])
    same(wide.targets, plain.all_targets.unsqueeze(1).expand(-1, 2, -1, -1)[scored])
    expected = ((wide.predictions - wide.targets) ** 2).sum() * 24**-0.5
    same(wide.loss, (expected / scored.sum()) + model.objective.cls_loss_weight * wide.loss_terms["utterance"])


# Terms


@pytest.mark.parametrize("pooling", ["last_token", "tokens", "mean"])
def test_utterance_term_pools_what_it_says(pooling):
    fields = objective(type(vision_config()), cls_loss_weight=3.0, cls_pooling=pooling, regression_weight=0.25)
    model = build(Data2Vec2VisionForPreTraining, objective=fields, num_extra_tokens=3)
    out = model(**inputs("vision"), masked=masks())
    states = out.last_hidden_state
    pooled = {"last_token": states[:, 2], "tokens": states[:, :3].mean(1), "mean": states[:, 3:].mean(1)}[pooling]
    targets = out.all_targets.mean(1).repeat_interleave(2, dim=0)
    same(out.cls_predictions, pooled)
    same(out.cls_targets, targets)
    utterance = ((pooled - targets) ** 2).sum(-1).mean() * 24**-0.5
    regression = ((out.predictions - out.targets) ** 2).sum(-1).mean() * 24**-0.5
    same(out.loss_terms, {"regression": regression.detach(), "utterance": utterance.detach()})
    same(out.loss, 0.25 * regression + 3.0 * utterance)


def test_mean_pooling_leaves_filler_out():
    """Rows that keep fewer tokens than others are filled up with tokens that count for nothing."""
    model = vision(cls_loss_weight=1.0, cls_pooling="mean")
    masked = masks()
    masked[1, 0, masked[1, 0].nonzero()[0]] = False  # this view keeps one more
    together = model(**inputs("vision"), masked=masked)
    alone = model(inputs("vision")["pixel_values"][:1], masked=masked[:1])
    same(together.cls_predictions[:2], alone.cls_predictions)


def test_a_subclass_adds_a_term():
    """With targets and a loss of its own, each relative to the mean over its own positions."""

    class WithLabels(Data2Vec2VisionForPreTraining):
        def loss_terms(self, regression, step):
            states = step.student.last_hidden_state[:, 0]
            labels = torch.arange(len(states)) % 24
            summed = lambda logits, wanted: F.cross_entropy(logits, wanted, reduction="sum")  # noqa: E731
            more = LossTerm("labels", states, labels, 0.5, summed)
            return [*super().loss_terms(regression, step), more]

    plain, masked = vision(cls_loss_weight=0.0), masks()
    model = WithLabels(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    noise = torch.zeros(3, 2, 15, 24)
    out, before = (m(**inputs("vision"), masked=masked, mask_noise=noise) for m in (model, plain))
    labels = F.cross_entropy(out.last_hidden_state[:, 0], torch.arange(6))
    same(out.loss, before.loss + 0.5 * labels)
    assert list(out.loss_terms) == ["regression", "labels"] and not out.loss_terms["labels"].requires_grad


# Targets and teacher


def test_named_blocks_are_averaged():
    numbers = {"masking": {"method": "random", "prob": 0.5}, "target_layer_norm": None}
    objective = ObjectiveConfig.from_dict({**numbers, "target_layers": [2, 0]})
    targets = TopKAverage(objective, 4)
    blocks = torch.randn(4, 2, 5, 3)
    for block in blocks:
        targets.add(BlockFeatures(block, block, block, block))
    same(targets.result(), (blocks[0] + blocks[2]) / 2)
    assert ObjectiveConfig.from_dict(objective.to_dict()) == objective


def test_a_frozen_teacher_stays_while_the_student_moves():
    model = vision(ema_scope="frozen")
    assert model.teacher.embeddings is not None
    before = copy.deepcopy(model.teacher.state_dict())
    with torch.no_grad():
        for parameter in model.base_model.parameters():
            parameter.add_(1.0)
    model.update_teacher(0.5)
    after = model.teacher.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    out = model(**inputs("vision"), masked=masks())
    assert not out.all_targets.requires_grad


# Masks on rectangular grids


@pytest.mark.parametrize(("grid", "short"), [((11, 4), 7), ((4, 11), 2), ((9, 5), 9)])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_grid_padded_by_whole_rows_is_masked_as_the_shorter_one(grid, short, inverse):
    masking, (high, wide) = BlockMasking(prob=0.6, length=3, adjust=0.2, inverse=inverse), grid
    seeds, lengths = mask_seeds(3, 1, [0, 1], 2), torch.tensor([high * wide, short * wide])
    padded = masking.sample(grid, seeds, lengths)
    alone = masking.sample((short, wide), seeds[1:])
    assert torch.equal(padded[1, :, : short * wide], alone[0]) and not padded[1, :, short * wide :].any()
    assert torch.equal(padded[0], masking.sample(grid, seeds)[0])


def test_a_grid_padded_within_a_row_is_refused():
    masking = BlockMasking(prob=0.6, length=3)
    with pytest.raises(ValueError, match="first rows of the grid, whole"):
        masking.sample((11, 4), mask_seeds(0, 0, [0, 1], 1), torch.tensor([44, 27]))


def test_pixels_as_the_target():
    """MAE on any encoder of images: the mean squared error of normalised pixels, and no teacher."""
    model = vision(target="input", cls_loss_weight=0).train()
    assert not list(model.teacher.parameters())
    batch, masked = inputs("vision"), masks()
    noise = torch.randn(3, 2, 15, model.config.hidden_size)
    out = model(**batch | {"masked": masked, "mask_noise": noise}, output_decoder_states=True)
    high, wide = model.base_model.embeddings.patch_size
    patches = F.unfold(batch["pixel_values"], (high, wide), stride=(high, wide)).transpose(1, 2)
    patches = patches.unflatten(-1, (-1, high * wide)).transpose(2, 3).flatten(2)  # channels last
    targets = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    errors = (out.decoder_output.unflatten(0, (3, 2)) - targets.unsqueeze(1)).square().mean(-1)
    same(out.loss, errors[masked].mean())
    assert out.loss_terms.keys() == {"reconstruction"}
    model.update_teacher(0.9)  # there is none to move


@pytest.mark.parametrize("views", [None, 2])
def test_a_frozen_teacher_of_the_same_view(views):
    """Student and teacher read what is visible; all that they made of it is compared, and nothing else."""
    model = vision(target="same_view", ema_scope="frozen", views=views, cls_loss_weight=0).eval()
    batch, masked = inputs("vision") | {"masked": masks(views)}, masks(views).flatten(0, -2)
    model.reset_teacher()
    out = model(**batch, output_teacher_layers=True, output_decoder_states=True)
    assert out.loss == 0 and not list(model.decoder.parameters())
    assert not out.decoder_output[masked].any() and len(out.teacher_layers) == model.config.num_hidden_layers
    same(out.decoder_output[~masked], out.last_hidden_state[:, 1:].flatten(0, 1))
    same(out.teacher_layers[-1].shape, out.last_hidden_state[:, 1:].shape)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    out = model(**batch, mask_counts=tuple(count_masks(batch["masked"], None, ~batch["masked"])))
    pixels = batch["pixel_values"].repeat_interleave(views or 1, dim=0)
    made = []
    for part in (model.base_model, model.teacher):
        tokens = part.embeddings(pixels)
        values = (tokens.values + part.positions(tokens))[~masked].view(len(pixels), -1, tokens.values.shape[-1])
        made.append(part.encoder(values).last_hidden_state)
    same(out.loss, (made[0] - made[1]).square().mean())
    assert out.loss_terms.keys() == {"distillation"}
    out.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None or name.startswith("teacher."), name
    shared = model(**batch, num_items_in_batch=2 * int((~batch["masked"]).sum()))  # half of an update's positions
    same(shared.loss, out.loss / 2)


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="ema_scope = 'all': must be 'frozen'"):
        vision(target="same_view", ema_scope="all", cls_loss_weight=0)
    with pytest.raises(ValueError, match="objective.target = 'input': must be"):
        build(Data2Vec2AudioForPreTraining, objective=objective(type(audio_config()), target="input"))
    with pytest.raises(ValueError, match="cls_loss_weight = 1.0: must be 0 with objective.target = 'input'"):
        vision(target="input", cls_loss_weight=1.0)
    with pytest.raises(ValueError, match="objective.decoder.dim = 9"):
        ObjectiveConfig.from_dict({"masking": {"method": "random", "prob": 0.5}, "decoder": TRANSFORMER | {"dim": 9}})
