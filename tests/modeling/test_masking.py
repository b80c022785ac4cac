"""Masks: the published laws, exact counts, and rows that depend on nothing but themselves."""

import json
import math
import random

import numpy as np
import pytest
import torch
from scipy import stats

from data2vec.modeling.masking import (
    MASKINGS,
    BeitBlockMasking,
    BlockMasking,
    Masking,
    RandomMasking,
    SpanMasking,
    TokenMasking,
    mask_seeds,
    masking_from_dict,
)
from data2vec.modeling.masking_functions import uniforms
from data2vec.tests.reference import GOLDEN


SPEECH = SpanMasking(prob=0.65, length=10)
IMAGE = BeitBlockMasking()
BERT = TokenMasking(prob=0.15, length=1, keep_prob=0.1, random_prob=0.1)
WORD_SPANS = TokenMasking(prob=0.35, length=4)
AUDIO_2 = BlockMasking(prob=0.5, length=5, adjust=0.05)
IMAGE_2 = BlockMasking(prob=0.8, length=3, adjust=0.07, inverse=True)
SPECTROGRAM_2 = BlockMasking(prob=0.8, length=5, adjust=0.07, inverse=True)
TEXT_2 = RandomMasking(prob=0.48)
INVERSE_1D = BlockMasking(prob=0.6, length=4, adjust=0.1, inverse=True)

IN_1D = {"span": SPEECH, "bert": BERT, "words": WORD_SPANS, "block": AUDIO_2, "inverse": INVERSE_1D, "random": TEXT_2}
ON_GRIDS: dict[str, tuple[Masking, tuple[int, ...]]] = {
    "beit": (IMAGE, (13, 17)),
    "block": (IMAGE_2, (13, 17)),
    "random": (TEXT_2, (13, 17)),
}
ON_GRIDS |= {name: (masking, (101,)) for name, masking in IN_1D.items() if name not in ON_GRIDS}


@pytest.fixture(scope="module")
def reference():
    return json.loads((GOLDEN / "misc" / "meta.json").read_text())


def draw(masking, grid, rows=2000, seed=11):
    return masking.sample(grid, mask_seeds(seed, 0, range(rows), 1))[:, 0]  # (rows, time)


def chance_next(masks, value):
    """P(the next token is `value` | this one is), rows flattened as in the reference."""
    here, following = masks[:, :-1] == value, masks[:, 1:] == value
    return ((here & following).sum() / here.sum()).item()


def assert_same_law(ours, theirs):
    """Means over rows of the count, its square, the number of runs and each position agree within 5 sigma."""

    def features(masks):
        masks = np.asarray(masks, dtype=float)
        count = masks.sum(-1, keepdims=True)
        runs = np.abs(np.diff(masks)).sum(-1, keepdims=True)
        return np.concatenate([count, (count - count.mean()) ** 2, runs, masks], axis=-1)

    ours, theirs = features(ours), features(theirs)
    error = np.sqrt(ours.var(0) / len(ours) + theirs.var(0) / len(theirs))
    difference = np.abs(ours.mean(0) - theirs.mean(0))
    assert (difference <= 5 * error + 1e-9).all(), (difference / (error + 1e-9))[:3]


# --- The same mask whatever surrounds it -----------------------------------------------------------------------------


@pytest.mark.parametrize(("masking", "grid"), ON_GRIDS.values(), ids=ON_GRIDS)
def test_a_mask_depends_on_seed_epoch_example_and_view_only(masking, grid):
    examples = [5, 3, 1013, 2**40]
    batch = masking.sample(grid, mask_seeds(7, 2, examples, 3))
    assert batch.dtype == torch.bool and batch.shape == (4, 3, math.prod(grid))
    for row, example in enumerate(examples):
        assert torch.equal(masking.sample(grid, mask_seeds(7, 2, [example], 3))[0], batch[row])
    assert torch.equal(masking.sample(grid, mask_seeds(7, 2, examples[:1], 1))[0, 0], batch[0, 0])
    other_run, other_epoch = (masking.sample(grid, mask_seeds(*key, examples, 3)) for key in ((8, 2), (7, 3)))
    masks = torch.cat([batch, other_run, other_epoch]).flatten(0, 1)
    assert len(masks.unique(dim=0)) == len(masks) == 36  # no two of them alike


@pytest.mark.parametrize("masking", IN_1D.values(), ids=IN_1D)
def test_padding_and_neighbours_change_nothing(masking):
    lengths = torch.tensor([83, 41, 97, 2, 29])
    seeds = mask_seeds(3, 1, range(5), 2)
    batch = masking.sample((97,), seeds, lengths)
    longer = masking.sample((131,), seeds, lengths)
    assert torch.equal(longer[..., :97], batch) and not longer[..., 97:].any()
    for row, length in enumerate(lengths.tolist()):
        assert not batch[row, :, length:].any()
        alone = masking.sample((length,), seeds[row : row + 1])
        assert torch.equal(alone[0], batch[row, :, :length])


@pytest.mark.parametrize("masking", IN_1D.values(), ids=IN_1D)
def test_unmaskable_tokens_are_left_out_as_if_they_were_not_there(masking):
    maskable = torch.ones(3, 89, dtype=torch.bool)
    maskable[:, 0] = maskable[:, 30] = maskable[1, 50:61] = maskable[2, ::2] = False
    lengths = torch.tensor([89, 89, 71])
    seeds = mask_seeds(3, 1, range(3), 2)
    batch = masking.sample((89,), seeds, lengths, maskable)
    allowed = maskable & (torch.arange(89) < lengths[:, None])
    assert not (batch & ~allowed[:, None]).any()
    for row in range(3):
        squeezed = masking.sample((int(allowed[row].sum()),), seeds[row : row + 1])
        assert torch.equal(batch[row, :, allowed[row]], squeezed[0])


@pytest.mark.parametrize("masking", [SPEECH, AUDIO_2, INVERSE_1D, TEXT_2])
def test_every_row_hides_something_and_shows_something(masking):
    lengths = torch.arange(2, 42).repeat(50)
    hidden = masking.sample((41,), mask_seeds(1, 1, range(2000), 1), lengths).sum(-1)[:, 0]
    assert (hidden >= 1).all() and (hidden < lengths).all()
    empty = masking.sample((41,), mask_seeds(1, 1, range(2), 3), torch.tensor([0, 1]))
    assert not empty.any()  # nothing to predict, or nothing to predict it from


def test_seeds_are_distinct_and_not_negative():
    seeds = torch.stack([mask_seeds(seed, epoch, range(101), 7) for seed in range(5) for epoch in range(3)])
    assert seeds.shape == (15, 101, 7) and seeds.dtype == torch.int64 and (seeds >= 0).all()
    assert len(seeds.unique()) == seeds.numel()
    assert torch.equal(mask_seeds(4, 2, torch.arange(101), 7), seeds[14])


def test_random_numbers_are_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # of 1234567
    expected = torch.tensor([(word >> 11) * 2.0**-53 for word in published], dtype=torch.float64)
    assert torch.equal(uniforms(torch.tensor([1234567]), 4)[0], expected)
    assert torch.equal(uniforms(torch.tensor([1234567]), 2, first=2)[0], expected[2:])
    seeds = mask_seeds(0, 0, range(211), 1)[:, 0]  # those of neighbouring examples
    draws = uniforms(seeds, 101)  # (rows, positions)
    for values in (draws.flatten(), (draws[1:] - draws[:-1]) % 1, (draws[:, 1:] - draws[:, :-1]) % 1):
        assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-3
    assert not torch.isin(draws, uniforms(seeds, 101, stream=1)).any()


# --- data2vec 1 speech: spans ----------------------------------------------------------------------------------------


def naive_spans(size, prob, length, rng):
    spans = max(1, int(prob * size / length + rng.random()))
    mask = np.zeros(size, bool)
    for start in rng.choice(size - length + 1, spans, replace=False):
        mask[start : start + length] = True
    return mask


@pytest.mark.parametrize(("size", "prob", "length"), [(101, 0.65, 10), (97, 0.5, 5), (53, 0.1, 7)])
def test_spans_follow_the_law(size, prob, length):
    rng = np.random.default_rng(0)
    theirs = [naive_spans(size, prob, length, rng) for _ in range(3000)]
    assert_same_law(draw(SpanMasking(prob=prob, length=length), (size,), 3000), theirs)


def test_span_statistics_are_the_originals(reference):
    masks = draw(SPEECH, (499,), 4000)
    assert masks.float().mean() == pytest.approx(0.49, abs=0.003)
    # The recorded statistics are of rows equalised to the smallest count of a batch of 8.
    equalised = masks.sum(-1).view(-1, 8).amin(-1) / 499
    mean, std = reference["mask_statistics"]["v1_audio_base"]
    assert equalised.mean().item() == pytest.approx(mean, abs=0.005)
    assert equalised.std().item() == pytest.approx(std, abs=0.003)


def test_spans_in_a_row_too_short_for_them():
    masks = draw(SpanMasking(prob=0.65, length=10), (11,), 500)
    starts = masks.float().argmax(-1)
    assert (masks.sum(-1) == 10).all() and set(starts.tolist()) == {0, 1}  # one span at either place
    crowded = draw(SpanMasking(prob=0.65, length=10, min_spans=4), (7,), 500)  # 5 starts, some spans cut at the end
    assert ((crowded.sum(-1) >= 4) & (crowded.sum(-1) <= 6)).all()


# --- data2vec 1 vision: BEiT's blocks --------------------------------------------------------------------------------


def naive_rectangles(grid, target, min_patches, min_aspect, rng):
    (height, width), count = grid, 0
    mask = np.zeros(grid, bool)
    while count < target:
        for _ in range(10):
            area = rng.uniform(min_patches, target - count)
            aspect = math.exp(rng.uniform(math.log(min_aspect), -math.log(min_aspect)))
            high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if high >= height or wide >= width:
                continue
            top, left = rng.randint(0, height - high), rng.randint(0, width - wide)
            window = mask[top : top + high, left : left + wide]
            gain = window.size - window.sum()
            if 0 < gain <= target - count:
                window[:] = True
                count += gain
                break
        else:
            break
    return mask.flatten()


@pytest.mark.parametrize(
    ("grid", "numbers"),
    [((14, 14), {}), ((11, 23), {"ratio": 0.4, "min_patches": 7, "min_aspect": 0.5})],
    ids=["base", "rectangular"],
)
def test_rectangles_follow_the_law(grid, numbers):
    masking = BeitBlockMasking(**numbers)
    target = int(masking.ratio * math.prod(grid))
    rng = random.Random(0)
    naive = [naive_rectangles(grid, target, masking.min_patches, masking.min_aspect, rng) for _ in range(1500)]
    assert_same_law(draw(masking, grid, 1500), naive)


def test_rectangle_counts_are_the_originals(reference):
    recorded = reference["v1_vision.count_stats_120"]
    counts = draw(IMAGE, (14, 14), 4000).sum(-1)
    assert counts.float().mean().item() == pytest.approx(recorded["mean"], abs=0.1)
    assert counts.max() == recorded["max"] == 120
    assert (counts >= recorded["min"]).float().mean() > 0.99


def test_rectangles_respect_their_largest_size():
    masking = BeitBlockMasking(ratio=0.06, min_patches=9, max_patches=9, min_aspect=1.0)  # 11 of 196: one 3 x 3
    masks = draw(masking, (14, 14), 50).view(-1, 14, 14)
    assert (masks.sum((1, 2)) >= 9).all()
    squares = torch.nn.functional.avg_pool2d(masks.float()[:, None], 3, stride=1).amax((1, 2, 3))
    assert torch.allclose(squares, torch.ones(50))


def test_every_small_image_has_hidden_patches():
    masks = draw(BeitBlockMasking(ratio=0.6, min_patches=16), (6, 6), 3000)  # ten attempts often all fail here
    assert masks.any(-1).all() and (masks.sum(-1) <= 21).all()


# --- data2vec 1 text: tokens -----------------------------------------------------------------------------------------


def naive_tokens(size, prob, length, rng):
    mask = np.zeros(size, bool)
    for start in rng.choice(size, int(prob * size / length + rng.random()), replace=False):
        mask[start : start + length] = True
    return mask


@pytest.mark.parametrize(("size", "prob", "length"), [(67, 0.35, 4), (103, 0.15, 1)])
def test_tokens_follow_the_law(size, prob, length):
    rng = np.random.default_rng(0)
    theirs = [naive_tokens(size, prob, length, rng) for _ in range(3000)]
    assert_same_law(draw(TokenMasking(prob=prob, length=length), (size,), 3000), theirs)


def test_kept_and_replaced_tokens_are_shares_of_the_chosen_ones():
    masking = TokenMasking(prob=0.35, length=4, keep_prob=0.1, random_prob=0.3)
    seeds = mask_seeds(1, 2, range(1500), 2)
    lengths = torch.full((1500,), 97)
    lengths[0] = 13
    chosen = TokenMasking(prob=0.35, length=4).sample((97,), seeds, lengths)
    hidden, replaced = masking.sample((97,), seeds, lengths), masking.sample_replaced((97,), seeds, lengths)
    assert not (hidden & replaced).any() and not ((hidden | replaced) & ~chosen).any()
    assert hidden.sum() / chosen.sum() == pytest.approx(0.6, abs=0.01)
    assert replaced.sum() / chosen.sum() == pytest.approx(0.3, abs=0.01)
    assert not replaced[0, :, 13:].any()
    assert torch.equal(replaced[7:8], masking.sample_replaced((97,), seeds[7:8]))  # not of its neighbours
    assert not WORD_SPANS.sample_replaced((97,), seeds).any()


# --- data2vec 2.0: blocks and random tokens with exact counts --------------------------------------------------------


@pytest.mark.parametrize(
    ("masking", "grid", "hidden"),
    [
        (IMAGE_2, (14, 14), 196 - 39),
        (BlockMasking(prob=0.75, length=3, adjust=0.1, inverse=True), (14, 14), 196 - 49),
        (SPECTROGRAM_2, (64, 8), 512 - 102),
        (AUDIO_2, (250,), 125),
        (AUDIO_2, (251,), 125),
        (TEXT_2, (512,), 512 - 266),
        (RandomMasking(prob=0.75), (3, 5, 7), 105 - 26),
    ],
)
def test_counts_are_exact(masking, grid, hidden):
    assert draw(masking, grid, 200).sum(-1).unique().tolist() == [hidden]


def test_counts_are_the_originals(reference):
    blocks = [case for name, case in reference.items() if name.startswith("block") and len(set(case["counts"])) == 1]
    assert len(blocks) == 9
    for case in blocks:
        masking = BlockMasking(
            prob=case["mask_prob"],
            length=case["mask_length"],
            adjust=case.get("mask_prob_adjust", 0),
            inverse=case.get("inverse_mask", False),
        )
        rows, time = case["shape"]
        grid = (time,) if case["fn"].endswith("1d") else (math.isqrt(time),) * 2
        assert draw(masking, grid, rows).sum(-1).tolist() == case["counts"]
    case = reference["random_masking.mask"]
    kept = 20  # random_masking.ids_keep is (4, 20)
    assert draw(RandomMasking(prob=case["mask_ratio"]), (case["L"],), 4).sum(-1).tolist() == [case["L"] - kept] * 4


def test_block_statistics_are_the_originals(reference):
    recorded = reference["mask_statistics"]
    audio, image = draw(AUDIO_2, (500,)), draw(IMAGE_2, (14, 14), 4000)
    for name, masks in (("v2_audio_block1d_0.5_5_adj0.05", audio), ("v2_image_block2d_inverse_0.8_3_adj0.07", image)):
        assert masks.float().mean().item() == pytest.approx(recorded[name][0], abs=2e-3)
        assert chance_next(masks, True) == pytest.approx(recorded[f"{name}.P(next masked|masked)"], abs=4e-3)
        assert chance_next(masks, False) == pytest.approx(recorded[f"{name}.P(next visible|visible)"], abs=6e-3)


def naive_blocks(masking, grid, rng):
    size, share = math.prod(grid), 1 - masking.prob if masking.inverse else masking.prob
    covered = np.zeros(grid, bool)
    for _ in range(int(size * (share + masking.adjust) / masking.length ** len(grid))):
        centre = [rng.integers(side) for side in grid]
        first = [place - masking.length // 2 for place in centre]
        covered[tuple(slice(max(f, 0), f + masking.length) for f in first)] = True
    covered = covered.flatten()
    missing = int(size * share) - covered.sum()
    changed = rng.choice(np.flatnonzero(covered == (missing < 0)), abs(missing), replace=False)
    covered[changed] = missing > 0
    return ~covered if masking.inverse else covered


@pytest.mark.parametrize(
    ("masking", "grid"),
    [
        (AUDIO_2, (101,)),
        (BlockMasking(prob=0.4, length=4), (61,)),
        (INVERSE_1D, (61,)),
        (IMAGE_2, (14, 14)),
        (BlockMasking(prob=0.6, length=4, adjust=0.3), (7, 19)),
        (SPECTROGRAM_2, (31, 7)),
    ],
)
def test_blocks_follow_the_law(masking, grid):
    rng = np.random.default_rng(0)
    assert_same_law(draw(masking, grid, 1500), [naive_blocks(masking, grid, rng) for _ in range(1500)])


def test_a_padded_row_hides_its_own_exact_share():
    lengths = torch.tensor([97, 50, 33, 11])
    seeds = mask_seeds(1, 1, range(4), 5)
    for masking, counts in ((AUDIO_2, [48, 25, 16, 5]), (TEXT_2, [97 - 50, 50 - 26, 33 - 17, 11 - 5])):
        hidden = masking.sample((97,), seeds, lengths).sum(-1)
        assert torch.equal(hidden, torch.tensor(counts)[:, None].expand(4, 5))


def test_random_tokens_are_uniform():
    masks = draw(TEXT_2, (23,), 5000)
    rate = 12 / 23
    assert (masks.float().mean(0) - rate).abs().max() < 5 * math.sqrt(rate * (1 - rate) / 5000)
    assert chance_next(masks, True) == pytest.approx(11 / 22, abs=0.01)


# --- What a user writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", [SPEECH, IMAGE, BERT, IMAGE_2, TEXT_2])
def test_a_strategy_survives_its_file(masking):
    numbers = json.loads(json.dumps(masking.to_dict()))
    assert MASKINGS[numbers["method"]] is type(masking)
    assert masking_from_dict(numbers) == masking
    assert "method" in numbers  # the caller's dict is left as it was


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({}, r"method=None .* span, beit_block, token, block, random"),
        ({"method": "spans"}, "method='spans' is unknown"),
        ({"method": "span", "probability": 0.5}, "probability.* Its fields: prob, length, min_spans"),
        ({"method": "random"}, "prob"),
        ({"method": "span", "prob": "0.65"}, "prob"),
        ({"method": "span", "length": 2.5}, "length"),
        ({"method": "span", "prob": 1.5}, r"prob=1.5 must be in \(0, 1\]"),
        ({"method": "span", "length": 0}, "length=0 must be at least 1"),
        ({"method": "span", "min_spans": 0}, "min_spans=0"),
        ({"method": "beit_block", "ratio": 1.0}, "ratio=1.0"),
        ({"method": "beit_block", "min_patches": 0}, "min_patches=0"),
        ({"method": "beit_block", "min_aspect": 0.0}, "min_aspect=0.0"),
        ({"method": "beit_block", "max_patches": 3}, "max_patches=3 must be None or at least min_patches=16"),
        ({"method": "token", "prob": 0}, "prob=0"),
        ({"method": "token", "length": 0}, "length=0"),
        ({"method": "token", "keep_prob": -0.1}, "keep_prob=-0.1"),
        ({"method": "token", "random_prob": -0.1}, "random_prob=-0.1"),
        ({"method": "token", "keep_prob": 0.5, "random_prob": 0.5}, "keep_prob=0.5 plus random_prob=0.5"),
        ({"method": "block", "prob": 1.0, "length": 5}, "prob=1.0"),
        ({"method": "block", "prob": 0.5, "length": 1}, "length=1 .*'random'"),
        ({"method": "block", "prob": 0.8, "length": 3, "adjust": -0.2, "inverse": True}, "adjust=-0.2"),
        ({"method": "random", "prob": 0.0}, "prob=0.0"),
    ],
)
def test_impossible_numbers_are_refused_by_name(numbers, message):
    with pytest.raises(ValueError, match=message):
        masking_from_dict(numbers)


@pytest.mark.parametrize(
    ("masking", "grid", "message"),
    [
        (SPEECH, (10,), "length=10 must be below the 10 frames"),
        (SpanMasking(length=3, min_spans=11), (11,), "min_spans=11"),
        (SPEECH, (14, 14), "covers 1-D"),
        (IMAGE, (196,), "covers 2-D"),
        (IMAGE, (5, 5), "min_patches=16 must be at most the 15 patches"),
        (BeitBlockMasking(ratio=0.5, min_patches=16), (2, 20), "min_patches=16 fits a grid"),  # one row of 16 at most
        (WORD_SPANS, (4,), "length=4"),
        (IMAGE_2, (3, 14), "length=3 must be below the shortest side"),
        (IMAGE_2, (4, 4), "length=3 leaves no block"),
        (AUDIO_2, (7, 5, 3), "covers 1-D or 2-D"),
        (TEXT_2, (1,), "prob=0.48"),
    ],
)
def test_a_mask_that_cannot_fit_is_refused(masking, grid, message):
    with pytest.raises(ValueError, match=message):
        masking.check(grid)


@pytest.mark.parametrize(("masking", "grid"), [*ON_GRIDS.values(), (SPECTROGRAM_2, (64, 8))])
def test_a_mask_that_fits_is_accepted(masking, grid):
    masking.check(grid)


@pytest.mark.parametrize(
    ("masking", "grid", "arguments", "message"),
    [
        (SPEECH, (31,), {"lengths": torch.tensor([31, 32])}, "lengths"),
        (SPEECH, (31,), {"lengths": torch.tensor([31])}, "lengths"),
        (SPEECH, (31,), {"maskable": torch.ones(2, 30, dtype=torch.bool)}, "maskable"),
        (SPEECH, (31,), {"maskable": torch.ones(2, 31)}, "maskable is torch.float32"),
        (SPEECH, (31,), {"seeds": torch.zeros(2)}, "mask_seeds"),
        (IMAGE_2, (5, 7), {"lengths": torch.tensor([35, 34])}, "lengths / maskable"),
        (IMAGE_2, (35, 1, 1), {}, "1-D or 2-D"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(masking, grid, arguments, message):
    with pytest.raises(ValueError, match=message):
        masking.sample(grid, **{"seeds": mask_seeds(0, 0, range(2), 1)} | arguments)


def test_a_view_is_needed():
    with pytest.raises(ValueError, match="views=0"):
        mask_seeds(0, 0, [1], 0)
