"""RandAugment and random erasing: against pixels computed by hand, and by how often and how strongly they act."""

import numpy as np
import pytest
import torch
from PIL import Image

from data2vec.finetune.image.augment import OPERATIONS, RandAugment, random_erasing


FILL = (10, 20, 30)


def image(mode="RGB", width=23, height=19, seed=0):
    rng = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    smooth = rng.integers(0, 255, size=shape).astype(float)
    for axis in (0, 1):
        smooth = (smooth + np.roll(smooth, 1, axis) + np.roll(smooth, -1, axis)) / 3
    return Image.fromarray(smooth.astype(np.uint8))


def pixels(picture):
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_size_and_mode(name, mode):
    for level in (0.0, 0.9, 1.0):
        changed = OPERATIONS[name](image(mode), level, -1, FILL[: 3 if mode == "RGB" else 1])
        assert changed.size == (23, 19) and changed.mode == mode


def test_pixels_against_hand_computed_ones():
    x = pixels(image())
    apply = lambda name, level, sign=1: pixels(OPERATIONS[name](image(), level, sign, FILL))  # noqa: E731
    np.testing.assert_array_equal(apply("invert", 0.9), 255 - x)
    np.testing.assert_array_equal(apply("posterize", 0.9), x & 0b10000000)  # 4 - int(3.6) = 1 bit is left
    np.testing.assert_array_equal(apply("posterize", 0.5), x & 0b11000000)
    np.testing.assert_array_equal(apply("solarize", 0.5), np.where(x >= 128, 255 - x, x))
    np.testing.assert_array_equal(apply("solarize_add", 0.5), np.where(x < 128, np.minimum(x + 55, 255), x))
    np.testing.assert_allclose(apply("brightness", 0.5, -1), x * 0.55, atol=1)
    np.testing.assert_allclose(apply("brightness", 0.5, 1), np.minimum(x * 1.45, 255), atol=1)
    moved = OPERATIONS["translate_x"](image(width=20), 0.5, 1, FILL)  # 0.225 * 20: 4.5 pixels
    assert (pixels(moved)[:, -4:] == FILL).all() and not (pixels(moved)[:, :-5] == FILL).all(-1).any()
    turned = pixels(OPERATIONS["rotate"](image(), 1.0, 1, FILL))
    assert (turned[0, 0] == FILL).all() and not (turned[8:11, 10:13] == FILL).all(-1).any()
    lines = Image.fromarray(np.repeat(np.arange(0, 240, 12, dtype=np.uint8)[None, :], 21, 0))
    sheared = pixels(OPERATIONS["shear_x"](lines, 1.0, 1, (0,)))
    assert sheared[10, 3] == pytest.approx(12 * (3 + 0.3 * 10), abs=5)  # row 10 comes from 3 columns to the right


@pytest.mark.parametrize(
    "name", ["rotate", "solarize", "solarize_add", "color", "contrast", "brightness", "shear_x", "translate_y"]
)
def test_a_larger_magnitude_changes_more(name):
    change = [
        np.abs(pixels(OPERATIONS[name](image(), level, -1, FILL)) - pixels(image())).mean() for level in (0, 0.4, 0.9)
    ]
    assert change[0] < 1 and change[1] < change[2] and change[2] > 3


def test_rand_augment_draws_from_its_generator_alone():
    augment = RandAugment(2, 9, 0.5, 0.5, FILL)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    one = [pixels(augment(image(), np.random.default_rng(seed))) for seed in range(30)]
    two = [pixels(augment(image(), np.random.default_rng(seed))) for seed in range(30)]
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert len({picture.tobytes() for picture in one}) > 15


def test_rand_augment_applies_each_draw_with_its_probability():
    before = image()

    def unchanged(operations, probability):
        augment = RandAugment(operations, 9, 0.0, probability, FILL)
        same = [(pixels(augment(before, np.random.default_rng(s))) == pixels(before)).all() for s in range(300)]
        return np.mean(same)

    assert unchanged(2, 0.0) == 1 and unchanged(2, 1.0) < 0.1
    assert unchanged(1, 0.5) == pytest.approx(0.5, abs=0.1) and unchanged(2, 0.5) == pytest.approx(0.25, abs=0.1)


def test_erasing_replaces_one_rectangle_by_noise():
    original = torch.zeros(3, 31, 37)
    shares, ratios = [], []
    for seed in range(300):
        erased = random_erasing(original, np.random.default_rng(seed))
        hit = (erased != 0).any(0)
        rows, columns = torch.nonzero(hit, as_tuple=True)
        high, wide = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
        assert hit.sum() == high * wide  # a full rectangle
        shares.append(high * wide / (31 * 37))
        ratios.append(high / wide)
    assert (
        0.015 < min(shares) < 0.05 and 0.28 < max(shares) < 0.36 and np.mean(shares) == pytest.approx(0.17, abs=0.03)
    )
    assert min(ratios) < 0.45 and max(ratios) > 2.2 and np.median(ratios) == pytest.approx(1, abs=0.25)
    noise = erased[:, hit]
    assert noise.mean().abs() < 0.3 and noise.std() == pytest.approx(1, abs=0.3)
    assert not original.any()  # a copy
