"""Mixup, cutmix and label smoothing: against loops, and the one loss that takes what they make."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from data2vec.finetune.mixing import MixingCollator, cutmix, mixup, soft_targets
from data2vec.pretraining.data.collators import pad
from data2vec.pretraining.modalities.image import ImageCollator


CLASSES = 7


def batch(rows=5, height=11, width=13, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, height, width, generator=generator)
    return images, torch.randint(CLASSES, (rows,), generator=generator)


def examples(rows=6, epoch=2):
    images, labels = batch(rows)
    return [
        {"pixel_values": image, "labels": int(label), "epoch": epoch, "index": 10 + i}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def collator(**changed):
    settings = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "probability": 1.0, "smoothing": 0.0} | changed
    return MixingCollator(ImageCollator(None, (1, 1), 3), "pixel_values", CLASSES, 3, **settings)


def test_smoothing_is_what_torch_calls_it():
    logits = torch.randn(5, CLASSES)
    _, labels = batch()
    expected = cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, soft_targets(labels, CLASSES, 0.1)), expected)
    torch.testing.assert_close(cross_entropy(logits, soft_targets(labels, CLASSES)), cross_entropy(logits, labels))


def test_mixup_against_a_loop():
    images, labels = batch()
    mixed, targets = mixup(images, soft_targets(labels, CLASSES), 0.3)
    for i in range(5):
        torch.testing.assert_close(mixed[i], 0.3 * images[i] + 0.7 * images[4 - i])
        expected = np.zeros(CLASSES)
        expected[labels[i]] += 0.3
        expected[labels[4 - i]] += 0.7
        np.testing.assert_allclose(targets[i], expected, rtol=1e-6)


def test_cutmix_targets_are_the_pixels_that_are_left():
    images, labels = batch()
    areas = []
    for seed in range(40):
        share = 0.1 + 0.02 * seed
        mixed, targets = cutmix(images, soft_targets(labels, CLASSES), share, np.random.default_rng(seed))
        own = (mixed[0] == images[0]).all(0)  # (height, width)
        torch.testing.assert_close(mixed[0][:, ~own], images[4][:, ~own])  # the rest is the image opposite
        rows, columns = torch.nonzero(~own, as_tuple=True)
        if len(rows):  # a box
            assert (~own)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        kept = own.double().mean()
        expected = kept * torch.eye(CLASSES)[labels[0]] + (1 - kept) * torch.eye(CLASSES)[labels[4]]
        torch.testing.assert_close(targets[0].double(), expected.double())
        areas.append((float(kept), share))
    assert all(kept >= share - 1e-6 for kept, share in areas)  # what is cut off at an edge stays the image's own
    assert any(kept - share < 0.1 for kept, share in areas) and any(kept - share > 0.1 for kept, share in areas)


def test_a_batch_follows_from_seed_epoch_and_index():
    both = collator(mixup_alpha=0.8, cutmix_alpha=1.0, smoothing=0.1)
    one, again, later = both(examples()), both(examples()), both(examples(epoch=3))
    assert torch.equal(one["pixel_values"], again["pixel_values"]) and torch.equal(one["labels"], again["labels"])
    assert not torch.equal(one["pixel_values"], later["pixel_values"])
    torch.testing.assert_close(one["labels"].sum(1), torch.ones(6))


def test_both_are_used_at_even_odds_and_alone_where_the_other_is_off():
    def kind(batch_of, images):
        if torch.equal(batch_of["pixel_values"], images):
            return "none"
        same = (batch_of["pixel_values"] == images) | (batch_of["pixel_values"] == images.flip(0))
        return "cutmix" if same.all() else "mixup"

    images = torch.stack([example["pixel_values"] for example in examples()])

    def kinds(**settings):
        return [kind(collator(**settings)(examples(epoch=epoch)), images) for epoch in range(200)]

    both = kinds(mixup_alpha=0.8, cutmix_alpha=1.0)
    assert 70 < both.count("mixup") < 130 and both.count("none") < 10  # a box can be empty
    assert set(kinds(mixup_alpha=0.8)) == {"mixup"}
    assert "mixup" not in kinds(cutmix_alpha=1.0)
    some = kinds(mixup_alpha=0.8, probability=0.3)
    assert 35 < some.count("mixup") < 85 and some.count("none") == 200 - some.count("mixup")
    assert set(kinds()) == {"none"}


def test_shares_of_mixup_have_the_beta_distribution():
    """Of Beta(a, a) the variance is 1 / (4 (2 a + 1)); read off the targets of two images of different classes."""
    two = [{"pixel_values": torch.zeros(1, 2, 2), "labels": label, "index": 0, "epoch": 0} for label in (1, 4)]
    shares = []
    for epoch in range(1500):
        for example in two:
            example["epoch"] = epoch
        shares.append(float(collator(mixup_alpha=0.8)(two)["labels"][0, 1]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.08)


def test_what_is_heard_of_either_clip_is_real():
    clips = [torch.ones(frames, 2) for frames in (5, 3, 4)]

    def collate(examples):
        batch, _ = pad([example["input_values"] for example in examples], "input_values", 0.0)
        return batch | {"labels": torch.eye(CLASSES)[:3]}  # shares already

    rows = [{"input_values": clip, "epoch": 0, "index": i} for i, clip in enumerate(clips)]
    mixed = MixingCollator(collate, "input_values", CLASSES, 3, mixup_alpha=0.8)(rows)
    assert mixed["attention_mask"].sum(1).tolist() == [5, 3, 5]
    share = mixed["labels"][0, 0]
    torch.testing.assert_close(mixed["input_values"][0, 4], torch.full((2,), float(share)))
