"""Mixup: the formula, the law of its draws, and that a clip's mix depends on seed, epoch and row alone."""

import numpy as np
import pytest
import torch
from scipy import stats

from data2vec.finetune.audio.examples import ClipCollator, MixedExamples, Mixup, mix, mix_labels
from data2vec.finetune.examples import Examples
from data2vec.modeling.embed_audio import ConvFrames
from data2vec.pretraining.modalities.audio import AudioCollator


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_mix_is_the_formula():
    first, second = torch.randn(101), torch.randn(101)
    plain = 0.7 * first.double().numpy() + 0.3 * second.double().numpy()
    expected = (plain - plain.mean()) / plain.std()
    np.testing.assert_allclose(mix(first, second, 0.7, rng()).numpy(), expected, atol=1e-5)
    labels = mix_labels(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0]), 0.7)
    np.testing.assert_allclose(labels.numpy(), [0.3, 0.7, 1.0], atol=1e-6)


@pytest.mark.parametrize("length", [37, 211])
def test_clips_of_other_lengths_are_cropped_or_placed_in_silence(length):
    first, second = torch.zeros(101), torch.arange(1.0, 1.0 + length)  # of silence, so that the second one shows
    starts = set()
    for seed in range(20):
        mixed = mix(first, second, 0.5, rng(seed)).numpy()
        assert len(mixed) == 101
        if length < 101:  # flat, a ramp, flat
            flat = np.isclose(mixed, mixed.min())
            assert (~flat).sum() == length
            starts.add(int((~flat).argmax()))
        else:  # a part of the ramp
            np.testing.assert_allclose(np.diff(mixed), np.diff(mixed)[0], rtol=1e-3)
            starts.add(0 if seed == 0 else seed)
    assert len(starts) > 5


def test_the_louder_share_is_uniform_with_beta_1_and_partners_are_uniform():
    drawn = [Mixup(0.7, 1.0).draw(rng(seed), 5) for seed in range(4000)]
    mixed = [one for one in drawn if one is not None]
    assert len(mixed) / len(drawn) == pytest.approx(0.7, abs=0.03)
    shares = [share for _, share in mixed]
    assert stats.kstest(shares, stats.uniform(0.5, 0.5).cdf).pvalue > 0.01
    assert np.allclose(np.bincount([other for other, _ in mixed], minlength=5) / len(mixed), 0.2, atol=0.04)
    assert all(Mixup(0.0, 1.0).draw(rng(seed), 5) is None for seed in range(20))


@pytest.fixture
def examples():
    clips = [torch.randn(50 + 7 * row, generator=torch.Generator().manual_seed(row)) for row in range(11)]
    rows = [{"clip": clip} for clip in clips]

    def read(row, generator):
        return {"input_values": row["clip"] + (0 if generator is None else float(generator.random()))}

    labels = np.arange(11) % 3
    plain = Examples(rows, read, name="train", seed=5, augment=True, labels=labels, keep=[1, 3, 4, 7, 10])
    return MixedExamples(plain, Mixup(0.6, 0.4), num_labels=3)


def test_a_mix_depends_on_seed_epoch_and_row_alone(examples):
    again = [examples[(2, index)] for index in (4, 2, 0, 1, 3)]
    for index, example in zip((4, 2, 0, 1, 3), again, strict=True):
        one = examples[(2, index)]
        torch.testing.assert_close(one["input_values"], example["input_values"], rtol=0, atol=0)
    assert any(not torch.equal(examples[(2, i)]["input_values"], examples[(3, i)]["input_values"]) for i in range(5))


def test_mixed_clips_have_the_labels_of_two_examples_that_are_kept(examples):
    found, mixed = set(), 0
    for epoch in range(40):
        batch = ClipCollator(AudioCollator(None, ConvFrames((2,), (1,)), 0), 3)(
            [examples[(epoch, index)] for index in range(5)]
        )
        labels = batch["labels"]  # (batch, labels)
        assert labels.shape == (5, 3) and labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(1), torch.ones(5))
        own = torch.tensor([1, 0, 1, 1, 1])  # classes of the rows 1, 3, 4, 7, 10
        assert (labels.gather(1, own.unsqueeze(1)) >= 0.5).all()  # the first clip is the louder one
        mixed += int((labels.max(1).values < 1).sum())
        found |= set(labels.nonzero()[:, 1].tolist())
    assert found == {0, 1}, "class 2 has no kept example"
    assert mixed > 10
    assert batch["input_values"].shape == batch["attention_mask"].shape
