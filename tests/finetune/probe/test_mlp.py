"""The probe of emotion2vec's evaluation, against its network written out with padding, and its scores by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from data2vec.finetune.metrics import unweighted_accuracy, weighted_f1
from data2vec.finetune.probe.mlp import FrameMlp, mlp_probe


def clips(count, seed, dim=7, classes=3):
    """Noise of 1 to 12 frames with the class's direction added in some of them, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size=count)
    frames = [rng.normal(size=(rng.integers(1, 13), dim)).astype(np.float32) for _ in labels]
    for clip, label in zip(frames, labels, strict=True):
        clip[: max(1, len(clip) // 2), label] += 4
    return frames, labels


def test_the_network_is_the_originals_masked_mean():
    frames, _ = clips(5, 0)
    model = FrameMlp(7, 3)
    lengths = torch.tensor([len(clip) for clip in frames])
    found = model(torch.cat([torch.from_numpy(clip) for clip in frames]), lengths)
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in frames], batch_first=True)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    hidden = model.hidden(padded).relu() * real[..., None]
    expected = model.classifier(hidden.sum(1) / real.sum(1, keepdim=True))
    torch.testing.assert_close(found, expected)


def test_it_learns_repeats_itself_and_chooses_on_a_fifth_of_training():
    (train_x, train_y), (test_x, test_y) = clips(60, 0), clips(41, 1)
    torch.manual_seed(3)
    probe = mlp_probe(train_x, train_y, test_x, test_y, 3, seed=5)
    torch.manual_seed(4)
    assert probe == mlp_probe(train_x, train_y, test_x, test_y, 3, seed=5)
    assert probe != mlp_probe(train_x, train_y, test_x, test_y, 3, seed=6)
    assert probe.accuracy > 0.8 and probe.unweighted_accuracy > 0.8 and probe.weighted_f1 > 0.8
    assert probe.validation_accuracy * 12 == pytest.approx(round(probe.validation_accuracy * 12)), "12 of 60"


def test_a_vector_is_one_frame():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=40)
    vectors = (rng.normal(size=(40, 5)) + 3 * labels[:, None]).astype(np.float32)
    one_frame = [vector[None] for vector in vectors]
    assert mlp_probe(list(vectors), labels, list(vectors), labels, 2) == mlp_probe(
        one_frame, labels, one_frame, labels, 2
    )


@pytest.mark.filterwarnings("error")
def test_scores_where_a_class_is_absent():
    references, predictions = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 0])
    assert unweighted_accuracy(predictions, references) == pytest.approx((2 / 3 + 0) / 2)
    precision, recall = 2 / 3, 2 / 3  # of class 0; class 2 has none
    assert weighted_f1(predictions, references) == pytest.approx(3 / 4 * 2 * precision * recall / (precision + recall))
    both = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 0])
    assert unweighted_accuracy(*both) == pytest.approx(balanced_accuracy_score(both[1], both[0]))
    (train_x, train_y), (test_x, test_y) = clips(60, 0), clips(41, 1)
    there = test_y < 2
    some = [clip for clip, kept in zip(test_x, there, strict=True) if kept]
    assert mlp_probe(train_x, train_y, some, test_y[there], 3).unweighted_accuracy > 0.8
