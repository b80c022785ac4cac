"""The objective of data2vec 2.0: what the student sees, what padding and views change, and what moves the teacher."""

import pytest
import torch
from torch.nn import functional as F

from data2vec import modeling
from data2vec.modeling import (
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionForPreTraining,
    ObjectiveConfig,
)
from data2vec.modeling.masking import mask_seeds
from data2vec.modeling.pretraining_step import Hidden, View
from tests.modeling.tiny_data2vec2 import CONFIGS, MODELS, PRETRAINING, build, inputs, main_output, objective, same
from tests.modeling.tiny_data2vec2 import PRETRAINERS as ALL_PRETRAINING


PRETRAINERS = pytest.mark.parametrize("model_class", ALL_PRETRAINING, ids=lambda c: c.__name__)
PADDED = pytest.mark.parametrize(
    "model_class",
    [c for c in MODELS if MODELS[c] != "vision" and c not in ALL_PRETRAINING],
    ids=lambda c: c.__name__,
)
TIME = {"audio": 30, "vision": 15, "text": 19, "eat": 15}
GRID = {"eat": (5, 3)}
SHORT = {"audio": (229, 22), "text": (13, 13), "eat": (12, 9)}  # samples, or frames, and tokens of the padded row


def masks(kind: str, views: int = 2, rows: int = 3) -> torch.Tensor:
    """The same number is hidden in every view."""
    noise = torch.rand(rows, views, TIME[kind], generator=torch.Generator().manual_seed(4))
    return noise.argsort(-1) < 8


@PADDED
def test_padded_row_equals_the_row_alone(model_class):
    kind, model = MODELS[model_class], build(model_class)
    padded = inputs(kind, padded=True)
    length, time = SHORT[kind]
    alone = {model.main_input_name: padded[model.main_input_name][1:2, :length]}
    with torch.no_grad():
        both, one = main_output(model(**padded)), main_output(model(**alone))
    if both.dim() == 3:
        both = both[:, : one.shape[1]]
        assert one.shape[1] in (time, time + model.config.num_extra_tokens)
    elif both.shape == (3, 19):  # answers
        both = both[:, :13]
    same(both[1:2], one)


@pytest.mark.parametrize(
    "model_class", [Data2Vec2AudioForPreTraining, Data2Vec2TextForPreTraining, modeling.EatForPreTraining]
)
def test_padding_changes_nothing_in_pretraining(model_class):
    """Rows of other lengths keep other numbers of tokens; their filler and padding are seen by nobody."""
    kind, fields = MODELS[model_class], {}
    if kind != "text":
        fields = {"objective": objective(type(CONFIGS[kind]()), cls_loss_weight=0.7)}
    model = build(model_class, **fields)
    length, time = SHORT[kind]
    padded = inputs(kind, padded=True)
    lengths = torch.tensor([TIME[kind], time, TIME[kind]])
    masked = model.objective.masking.sample(GRID.get(kind, (TIME[kind],)), mask_seeds(0, 0, [0, 1, 2], 2), lengths)
    assert masked[0, 0].sum() > masked[1, 0].sum() > 0
    noise = 0.1 * torch.randn(3, 2, TIME[kind], 24, generator=torch.Generator().manual_seed(3))
    flags = {"num_items_in_batch": 1, "output_decoder_states": True}

    together = model(**padded, masked=masked, mask_noise=noise, **flags)
    total, kept = 0.0, TIME[kind] - masked.sum(-1)
    parts = {}
    for row, steps in enumerate(lengths.tolist()):
        samples = length if row == 1 else None
        alone = model(
            padded[model.main_input_name][row : row + 1, :samples],
            masked=masked[row : row + 1, :, :steps],
            mask_noise=noise[row : row + 1, :, :steps],
            **flags,
        )
        total = total + alone.loss
        same(together.all_targets[row, :steps], alone.all_targets[0])
        view = 2 * row
        same(together.decoder_output[view, :steps], alone.decoder_output[0])
        extra, count = model.config.num_extra_tokens, int(kept[row, 0]) - (TIME[kind] - steps)
        same(together.last_hidden_state[view, : extra + count], alone.last_hidden_state[0, : extra + count])
        parts[row] = alone
    same(together.predictions, torch.cat([parts[row].predictions for row in range(3)]))
    # the CLS term counts once a masked position, so that rows with more of them weigh more than alone
    cls = [parts[row].loss.new_zeros(()) for row in range(3)]
    if model.objective.cls_loss_weight:
        each = ((together.cls_predictions - together.cls_targets) ** 2).sum(-1) * 24**-0.5
        for row in range(3):
            cls[row] = 0.7 * each[2 * row : 2 * row + 2].mean() * len(parts[row].targets)
        total = total - sum(cls) + 0.7 * each.mean() * len(together.targets)
    same(together.loss, total)


@PRETRAINERS
def test_student_does_not_see_what_is_hidden(model_class):
    """Other content at hidden positions leaves what the student makes of the visible ones as it was, to the bit."""
    kind, model = MODELS[model_class], build(model_class)
    masked = masks(kind)
    with torch.no_grad():
        tokens = model.base_model.embed((inputs(kind)[model.main_input_name],))

        def seen(values):
            changed, hidden = tokens._replace(values=values), Hidden(masked.flatten(0, 1), ~masked.flatten(0, 1), None)
            return model.student_view(View(changed, model.student_positions(changed, hidden), hidden))[0]

        first = seen(tokens.values)
        hidden_in_both = masked.all(1)
        assert hidden_in_both.any()
        assert torch.equal(seen(torch.where(hidden_in_both.unsqueeze(-1), 3.0, tokens.values)), first)
        second = seen(torch.where(masked[:, 0].unsqueeze(-1), 3.0, tokens.values))
        assert torch.equal(second[0::2], first[0::2]) and not torch.equal(second[1::2], first[1::2])


@PRETRAINERS
def test_views_share_a_teacher_and_add_up(model_class):
    kind, model = MODELS[model_class], build(model_class)
    masked = masks(kind, views=3)
    noise = torch.randn(3, 3, TIME[kind], 24, generator=torch.Generator().manual_seed(6))
    calls = []
    model.teacher.encoder.register_forward_hook(lambda *args: calls.append(args))
    together = model(**inputs(kind), masked=masked, mask_noise=noise)
    assert len(calls) == 1
    single = [
        model(**inputs(kind), masked=masked[:, v : v + 1], mask_noise=noise[:, v : v + 1]).loss for v in range(3)
    ]
    same(together.loss, torch.stack(single).mean())


@PRETRAINERS
def test_loss_is_what_the_paper_says(model_class):
    kind = MODELS[model_class]
    fields = {"loss_beta": 0.3, "loss_scale": 0.9}
    if kind != "text":
        fields["cls_loss_weight"] = 2.5
    model = build(model_class, objective=objective(type(CONFIGS[kind]()), **fields))
    masked = masks(kind)
    output = model(**inputs(kind), masked=masked, output_decoder_states=True)
    terms = []
    for sample in range(3):
        for view in range(2):
            for step in range(TIME[kind]):
                if masked[sample, view, step]:
                    guess, target = output.decoder_output[2 * sample + view, step], output.all_targets[sample, step]
                    terms.append(F.smooth_l1_loss(guess, target, beta=0.3, reduction="sum") * 0.9)
    assert len(terms) == len(output.targets) == 48
    expected = torch.stack(terms).mean()
    if kind != "text":
        last = output.last_hidden_state[:, model.config.num_extra_tokens - 1]
        mean = output.all_targets.mean(1).repeat_interleave(2, 0)
        expected = expected + 2.5 * F.smooth_l1_loss(last, mean, beta=0.3, reduction="none").sum(-1).mean() * 0.9
    same(output.loss, expected)
    divided = model(**inputs(kind), masked=masked, mask_noise=output.decoder_input.new_zeros(3, 2, TIME[kind], 24))
    fewer = model(
        **inputs(kind),
        masked=masked,
        mask_noise=output.decoder_input.new_zeros(3, 2, TIME[kind], 24),
        num_items_in_batch=24,
    )
    same(fewer.loss, divided.loss * 2)


@PRETRAINERS
def test_noise_is_where_the_student_saw_nothing(model_class):
    kind, model = MODELS[model_class], build(model_class)
    masked, noise = masks(kind), torch.full((3, 2, TIME[kind], 24), 7.0)
    output = model(**inputs(kind), masked=masked, mask_noise=noise, output_decoder_states=True)
    removed = masked.flatten(0, 1)
    assert (output.decoder_input[removed] == 7).all()
    kept = output.last_hidden_state[:, model.config.num_extra_tokens :]
    same(output.decoder_input[~removed], kept.flatten(0, 1), 0.0)  # in order
    drawn = model(**inputs(kind), masked=masked, output_decoder_states=True).decoder_input[removed]
    assert drawn.std().item() == pytest.approx(model.objective.mask_noise_std, rel=0.1)


@PRETRAINERS
def test_masks_are_sampled_when_not_given(model_class):
    kind, model = MODELS[model_class], build(model_class)
    torch.manual_seed(5)
    output = model(**inputs(kind, padded=kind != "vision"))
    assert output.masked.shape == (3, 2, TIME[kind]) and output.masked.any(-1).all()
    if kind != "vision":
        assert not (output.masked & ~output.real.unsqueeze(1)).any()
    torch.manual_seed(5)
    assert torch.equal(model(**inputs(kind, padded=kind != "vision")).masked, output.masked)


@PRETRAINERS
def test_wrong_masks_are_refused(model_class):
    kind, model = MODELS[model_class], build(model_class)
    for wrong in (masks(kind).long(), masks(kind)[:, 0], masks(kind)[:, :, 1:]):
        with pytest.raises(ValueError, match=r"masked is .* pass bool \(batch, views, time\)"):
            model(**inputs(kind), masked=wrong)
    with pytest.raises(ValueError, match="hides every real token"):
        model(**inputs(kind), masked=torch.ones(3, 2, TIME[kind], dtype=torch.bool))


# The teacher


@pytest.mark.parametrize("scope", ["blocks", "encoder", "all"])
@PRETRAINERS
def test_scope_says_what_is_averaged(model_class, scope):
    kind = MODELS[model_class]
    model = build(model_class, objective=objective(type(CONFIGS[kind]()), ema_scope=scope))
    names = {name for name, _ in model.teacher.named_parameters()}
    assert any(name.startswith("embeddings.") for name in names) == (scope == "all")
    before = {n: p.clone() for n, p in model.teacher.named_parameters()}
    model.update_teacher(0.75)
    averaged = 0
    for name, parameter in model.teacher.named_parameters():
        student = model.base_model.get_parameter(name)
        if scope != "blocks" or name.startswith("encoder.layers."):
            same(parameter, 0.75 * before[name] + 0.25 * student)
            averaged += 1
        else:
            assert torch.equal(parameter, student)
    assert 0 < averaged <= len(names) and (averaged < len(names)) == (scope == "blocks" and kind != "text")


def test_teacher_of_data2vec_1_with_buffers_moves():
    config = modeling.Data2VecTextConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8
    )
    stored = modeling.Data2VecTextForPreTraining.default_objective
    config.objective = {**stored, "ema_scope": "all", "top_k_layers": 2}
    model = modeling.Data2VecTextForPreTraining(config)
    with torch.no_grad():
        model.base_model.embeddings.word_embeddings.weight.add_(1)
    before = model.teacher.embeddings.word_embeddings.weight.clone()
    model.update_teacher(0.5)
    same(model.teacher.embeddings.word_embeddings.weight, before + 0.5)


@PRETRAINERS
def test_teacher_sees_everything_without_dropout(model_class):
    """In training, with dropout, the targets are those of evaluation; the student's gradient does not reach them."""
    kind = MODELS[model_class]
    noisy = {"hidden_dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.3, "drop_path_rate": 0.3}
    for scope in ("blocks", "encoder", "all"):
        model = build(model_class, objective=objective(type(CONFIGS[kind]()), ema_scope=scope), **noisy)
        calm = model(**inputs(kind), masked=masks(kind), output_teacher_layers=True)
        model.train()
        output = model(**inputs(kind), masked=~masks(kind), output_teacher_layers=True)
        assert not model.teacher.training and len(output.teacher_layers) == 3
        same(output.all_targets, calm.all_targets, 0.0)
        assert not output.all_targets.requires_grad


def test_teacher_input_can_be_another():
    """What the teacher reads is a method of its own."""

    class Blind(Data2Vec2VisionForPreTraining):
        def teacher_view(self, inputs, tokens):
            return tokens._replace(values=torch.zeros_like(super().teacher_view(inputs, tokens).values))

    model, masked = build(Data2Vec2VisionForPreTraining), masks("vision")
    blind = Blind(model.config).eval()
    blind.load_state_dict(model.state_dict())
    seen = blind(**inputs("vision"), masked=masked)
    assert torch.equal(seen.all_targets[0], seen.all_targets[1])
    assert torch.equal(seen.last_hidden_state, model(**inputs("vision"), masked=masked).last_hidden_state)


# LayerDrop, sizes, objectives that do not fit


@PRETRAINERS
def test_layers_are_dropped_as_told(model_class):
    kind = MODELS[model_class]
    model = build(model_class, layerdrop=0.4).train()
    blocks = model.config.num_prenet_layers + 3
    kept = [True] * blocks
    kept[-1] = False
    noise = torch.zeros(3, 2, TIME[kind], 24)
    output = model(**inputs(kind), masked=masks(kind), mask_noise=noise, kept_layers=kept)
    output.loss.backward()
    assert model.base_model.encoder.layers[-1].output.weight.grad is None
    assert model.base_model.encoder.layers[0].output.weight.grad is not None
    with pytest.raises(ValueError, match=f"kept_layers has 1 entries: give one for each of the {blocks} blocks"):
        model(**inputs(kind), masked=masks(kind), kept_layers=[True])


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (8, 28), (24, 40)])
def test_images_of_other_sizes(size):
    """Also where height and width differ: the decoder's grid is the image's."""
    model = build(Data2Vec2VisionForPreTraining)
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    output = model(pixel_values=image)
    patches = size[0] * size[1] // 16
    assert output.all_targets.shape == (2, patches, 24) and output.loss.isfinite()
    with pytest.raises(ValueError, match=r"pixel_values has shape \(2, 3, 12, 21\).*multiples of patch_size"):
        model(pixel_values=torch.zeros(2, 3, 12, 21))


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="input_values has shape .* one frame"):
        build(Data2Vec2AudioForPreTraining)(torch.zeros(2, 9))
    with pytest.raises(ValueError, match="input_ids has shape .* at most 21 tokens"):
        build(Data2Vec2TextForPreTraining)(torch.full((2, 22), 5))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("vision", {"decoder": {"dim": 20, "layers": 2, "kernel": 3, "groups": 5}}, "objective.decoder.groups = 5"),
        ("vision", {"decoder": {"dim": 20, "layers": 2, "kernel": 3, "width": 5}}, "Its fields: dim, layers"),
        ("vision", {"decoder": {"dim": 20, "layers": 0, "kernel": 3, "groups": 5}}, "objective.decoder.layers = 0"),
        ("vision", {"decoder": {"method": "mlp", "layers": 2}}, "objective.decoder.method = 'mlp'"),
        (
            "vision",
            {"decoder": {"method": "transformer", "layers": 2, "num_attention_heads": 7}},
            "objective.decoder.num_attention_heads = 7",
        ),
        ("vision", {"target_layers": [0, 3]}, "objective.target_layers"),
        ("vision", {"target_layers": [1, 1]}, "objective.target_layers"),
        ("vision", {"cls_pooling": "first"}, "cls_pooling"),
        ("vision", {"head_layers": 0}, "objective.head_layers = 0"),
        ("vision", {"top_k_layers": 4}, "objective.top_k_layers = 4"),  # the prenet does not count
        ("vision", {"ema_scope": "some"}, "ema_scope"),
        ("text", {"cls_loss_weight": 1.0}, "objective.cls_loss_weight = 1.0"),
        ("text", {"cls_loss_weight": -1.0}, "objective.cls_loss_weight = -1.0"),
        ("audio", {"mask_noise_std": -0.1}, "objective.mask_noise_std = -0.1"),
    ],
)
def test_objective_that_does_not_fit_is_refused(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        PRETRAINING[kind](CONFIGS[kind](objective=objective(type(CONFIGS[kind]()), **fields)))


def test_data2vec_1_refuses_what_is_not_its_own():
    config = modeling.Data2VecVisionConfig()
    stored = modeling.Data2VecVisionForPreTraining.default_objective
    for name, value in (("views", 2), ("cls_loss_weight", 1.0)):
        with pytest.raises(ValueError, match=f"objective.{name} .* data2vec 2.0's"):
            modeling.Data2VecVisionForPreTraining.check_objective(
                config, ObjectiveConfig.from_dict({**stored, name: value})
            )
