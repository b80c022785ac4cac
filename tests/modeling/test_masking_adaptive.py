"""Masks that are chosen among candidates by what the teacher or the student makes of a sample."""

import pytest
import torch

from data2vec.modeling import Data2Vec2AudioForPreTraining, Data2Vec2VisionForPreTraining, Data2VecVisionForPreTraining
from data2vec.modeling.configuration_objective import ObjectiveConfig
from data2vec.modeling.gather import count_masks
from data2vec.modeling.masking import mask_seeds, masking_from_dict
from data2vec.pretraining.modalities.audio import AudioCollator
from data2vec.tests.modeling.tiny_data2vec2 import CONFIGS, MODELS, build, inputs, same


BLOCKS = {"vision": {"method": "block", "prob": 0.6, "length": 2, "inverse": True}}
BLOCKS["audio"] = {"method": "block", "prob": 0.5, "length": 3}


def adaptive(model_class, method):
    masking = {"method": method, "candidates": 5, "of": BLOCKS[MODELS[model_class]]}
    fields = {"masking": masking, "mask_noise_std": 0.0}
    return build(model_class, objective=CONFIGS[MODELS[model_class]]().objective | fields)


def candidates_for(model, padded):
    """Masks of three rows in two views and five candidates each, as the loader draws them, with their counts."""
    kind, masking = MODELS[type(model)], model.objective.masking
    grid = (3, 5) if kind == "vision" else (30,)
    lengths = torch.tensor([30, 22, 30]) if padded else None

    def draw(seeds):
        return masking.sample(grid, seeds, lengths)

    seeds = mask_seeds(3, 0, range(3), 2)
    masked, candidates = draw(seeds), masking.draw_candidates(draw, seeds)
    assert candidates.shape[:3] == (3, 2, 5) and torch.equal(candidates[:, :, 0], masked)
    assert len({tuple(row.tolist()) for row in candidates.flatten(0, 2)}) > 15
    assert (candidates.sum(-1) == masked.sum(-1, keepdim=True)).all()
    real = None if lengths is None else torch.arange(30) < lengths.unsqueeze(1)
    assert real is None or not (candidates & ~real[:, None, None]).any()
    return {
        "masked": masked, "mask_candidates": candidates, "mask_counts": tuple(count_masks(masked, real))
    }, real  # fmt: skip


def attention_of_the_teacher(model, batch):
    """Of its last block, from queries and keys that a hook saw."""
    seen = []
    hook = model.teacher.encoder.layers[-1].register_forward_hook(lambda _, args, output: seen.append(output[4]))
    model(**batch)
    hook.remove()
    extra = model.config.num_extra_tokens
    weights = seen[-1].mean(1)
    return weights[:, :extra, extra:].mean(1) if extra else weights.mean(1)


def far_from_the_mean(model, batch, real):
    targets = model(**batch).all_targets
    real = torch.ones(targets.shape[:2], dtype=torch.bool) if real is None else real
    means = torch.stack([row[steps].mean(0) for row, steps in zip(targets, real, strict=True)])
    return (targets - means[:, None]).square().mean(-1)


def error_behind_the_first(model, batch):
    """Of a plain step, in which only that mask is given."""
    plain = {name: value for name, value in batch.items() if not name.startswith("mask")}
    hidden = batch["mask_candidates"][:, 0, 0]
    out = model(**plain, masked=hidden.unsqueeze(1), output_decoder_states=True)
    errors = (out.decoder_output - out.all_targets).square().mean(-1)
    return torch.where(hidden, errors, (errors * hidden).sum(1, keepdim=True) / hidden.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("model_class", "padded"), [(Data2Vec2VisionForPreTraining, False), (Data2Vec2AudioForPreTraining, True)]
)
@pytest.mark.parametrize("method", ["attention", "variance", "error"])
def test_the_candidate_is_taken_that_hides_most(model_class, padded, method):
    model = adaptive(model_class, method)
    given, real = candidates_for(model, padded)
    batch = inputs(MODELS[model_class], padded) | given
    with torch.no_grad():
        out = model(**batch)
        score = {
            "attention": lambda: attention_of_the_teacher(model, batch),
            "variance": lambda: far_from_the_mean(model, batch, real),
            "error": lambda: error_behind_the_first(model, batch),
        }[method]()
    chosen = set()
    for row in range(3):
        for view in range(2):
            worth = [score[row][mask].sum() for mask in batch["mask_candidates"][row, view]]
            best = max(range(5), key=lambda number: worth[number])
            assert torch.equal(out.masked[row, view], batch["mask_candidates"][row, view, best])
            chosen.add(best)
    assert len(chosen) > 1
    plain = {name: value for name, value in batch.items() if not name.startswith("mask")}
    same(out.loss, model(**plain, masked=out.masked).loss)  # nothing else differs
    same(model(**plain | given).loss, out.loss)


def test_a_loader_draws_candidates_that_depend_on_the_example_alone():
    masking = {"method": "error", "candidates": 3, "of": BLOCKS["audio"]}
    objective = ObjectiveConfig.from_dict({"masking": masking, "views": 2})
    frames = Data2Vec2AudioForPreTraining(CONFIGS["audio"]()).num_frames
    clips = [{"input_values": torch.randn(length), "epoch": 1, "index": length} for length in (313, 229)]
    together, alone = (AudioCollator(objective, frames, seed=5)(rows) for rows in (clips, clips[1:]))
    found = together["mask_candidates"]
    assert torch.equal(found[:, :, 0], together["masked"]) and not found[1, ..., 22:].any()
    assert torch.equal(found[1:, ..., :22], alone["mask_candidates"])
    plain = ObjectiveConfig.from_dict({"masking": BLOCKS["audio"], "views": 2})
    assert torch.equal(AudioCollator(plain, frames, seed=5)(clips)["masked"], together["masked"])


def test_what_cannot_be_chosen_is_refused():
    for numbers, message in (
        ({"of": {"method": "span"}}, "must hide an exact number of tokens"),
        ({"of": BLOCKS["audio"], "candidates": 1}, "candidates=1 must be 2 or more"),
        ({"of": {"method": "blok"}}, "method='blok' is unknown"),
        ({"of": {"method": "variance", "of": BLOCKS["audio"]}}, "must hide an exact number of tokens"),
        ({}, "cannot be built"),
    ):
        with pytest.raises(ValueError, match=message):
            masking_from_dict({"method": "variance", **numbers})
    masking = {"method": "attention", "of": BLOCKS["vision"]}
    objective = CONFIGS["vision"]().objective | {"masking": masking}
    assert ObjectiveConfig.from_dict(objective).to_dict()["masking"]["of"]["method"] == "block"
    other = {"cls_loss_weight": 0, "ema_scope": "frozen"}
    for target, message in (("same_view", "does not choose its masks"), ("input", "which has no teacher")):
        with pytest.raises(ValueError, match=message):
            build(Data2Vec2VisionForPreTraining, objective=objective | other | {"target": target})
    stock = Data2VecVisionForPreTraining.config_class(hidden_size=24, num_attention_heads=2, num_hidden_layers=2)
    stock.objective = {"masking": masking, "top_k_layers": 2}
    with pytest.raises(ValueError, match="does not choose its masks"):
        Data2VecVisionForPreTraining(stock)


@pytest.mark.slow  # half a minute each
@pytest.mark.parametrize("method", ["attention", "error"])
def test_torch_compile_traces_a_choice_as_one_graph(method):
    """Also where the attention is computed, of which a user would be warned."""
    model = adaptive(Data2Vec2VisionForPreTraining, method)
    batch = inputs("vision") | candidates_for(model, False)[0]
    exact = model(**batch)
    torch._dynamo.reset()
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch)
    assert torch.equal(found.masked, exact.masked)
    same(found.loss, exact.loss)
