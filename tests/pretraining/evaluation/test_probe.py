"""Features and probes, against naive implementations and on data whose answer is known."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
)

from data2vec.modeling import Data2VecAudioForPreTraining, Data2VecVisionForPreTraining
from data2vec.pretraining.data.collators import pad
from data2vec.pretraining.evaluation import probe
from tests.pretraining.evaluation.pattern_images import collate as collate_images


TINY = {"hidden_size": 14, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 22}
AUDIO = {
    "conv_dim": (6, 6),
    "conv_kernel": (7, 3),
    "conv_stride": (5, 2),
    "num_conv_pos_embeddings": 2,
    "conv_pos_kernel_size": 3,
    "num_conv_pos_embedding_groups": 2,
}


def audio_encoder(**config) -> Data2VecAudioModel:
    return Data2VecAudioModel(Data2VecAudioConfig(**TINY | AUDIO | config)).eval()


def text_encoder(**config) -> Data2VecTextModel:
    return Data2VecTextModel(Data2VecTextConfig(**TINY, vocab_size=31, max_position_embeddings=40, **config)).eval()


def vision_encoder(**config) -> Data2VecVisionModel:
    sizes = {"image_size": 10, "patch_size": 2, "num_channels": 3}
    return Data2VecVisionModel(Data2VecVisionConfig(**TINY | sizes | config)).eval()


def collate_audio(examples):
    batch, _ = pad([example["input_values"] for example in examples], "input_values", 0.0)
    return batch | {"labels": torch.tensor([example["labels"] for example in examples])}


def collate_text(examples):
    batch, _ = pad([example["input_ids"] for example in examples], "input_ids", 1)
    return batch | {"labels": torch.tensor([example["labels"] for example in examples])}


def clips(*lengths):
    return [{"input_values": torch.randn(length), "labels": i} for i, length in enumerate(lengths)]


def texts(*lengths):
    return [{"input_ids": torch.randint(5, 31, (length,)), "labels": i} for i, length in enumerate(lengths)]


def images(count):
    return [{"pixel_values": torch.randn(3, 10, 10), "labels": i} for i in range(count)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# Features


def test_text_features_do_not_depend_on_padding():
    encoder, examples = text_encoder(), texts(19, 7, 13)
    together, labels = probe.extract_features(encoder, [collate_text(examples)])
    for row, example in enumerate(examples):
        alone = encoder(input_ids=example["input_ids"][None]).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(together[row], alone.detach(), atol=1e-5)
    assert together.shape == (3, 14) and together.dtype == np.float32
    assert labels.tolist() == [0, 1, 2]


def test_audio_features_are_the_mean_over_real_frames():
    encoder, examples = audio_encoder(), clips(211, 97, 151)
    batch = collate_audio(examples)
    features, _ = probe.extract_features(encoder, [batch])
    hidden = encoder(batch["input_values"], attention_mask=batch["attention_mask"]).last_hidden_state.detach()
    for row, length in enumerate((211, 97, 151)):
        frames = ((length - 7) // 5 + 1 - 3) // 2 + 1
        np.testing.assert_allclose(features[row], hidden[row, :frames].mean(0), atol=1e-6)


def test_audio_features_do_not_depend_on_what_stands_in_the_padding():
    encoder, batch = audio_encoder(), collate_audio(clips(211, 97))
    features, _ = probe.extract_features(encoder, [batch])
    batch["input_values"] = batch["input_values"] + 5 * (1 - batch["attention_mask"])
    noisy, _ = probe.extract_features(encoder, [batch])
    np.testing.assert_allclose(features, noisy, atol=1e-6)


def test_audio_without_padding_uses_every_frame():
    encoder, batch = audio_encoder(), collate_audio(clips(97, 97))
    assert "attention_mask" not in batch
    features, _ = probe.extract_features(encoder, [batch])
    expected = encoder(batch["input_values"]).last_hidden_state.mean(1)
    np.testing.assert_allclose(features, expected.detach(), atol=1e-6)


def test_vision_features_leave_the_cls_token_out():
    encoder, batch = vision_encoder(), collate_images(images(3))
    features, _ = probe.extract_features(encoder, [batch])
    hidden = encoder(batch["pixel_values"]).last_hidden_state.detach()  # (batch, 1 + 25, dim)
    np.testing.assert_allclose(features, hidden[:, 1:].mean(1), atol=1e-6)
    assert not np.allclose(features, hidden.mean(1), atol=1e-4)


def test_layers():
    encoder, batch = text_encoder(), collate_text(texts(11, 11))
    states = encoder(batch["input_ids"], output_hidden_states=True).hidden_states
    expected = {
        None: states[-1],
        0: states[0],
        2: states[2],
        "average": sum(states) / 4,
    }
    for layer, hidden in expected.items():
        features, _ = probe.extract_features(encoder, [batch], layer=layer)
        np.testing.assert_allclose(features, hidden.detach().mean(1), atol=1e-6)


def test_batches_do_not_change_features():
    encoder, examples = text_encoder(), texts(19, 7, 13, 3, 5)
    whole, _ = probe.extract_features(encoder, probe.batches_of(examples, collate_text, 5))
    parts, labels = probe.extract_features(encoder, probe.batches_of(examples, collate_text, 2))
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_the_encoder_is_left_as_it_was():
    encoder = text_encoder(hidden_dropout_prob=0.5)
    encoder.train()
    encoder.embeddings.eval()
    modes = [module.training for module in encoder.modules()]
    weights = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    batch = collate_text(texts(7, 7))
    random_state = torch.get_rng_state()
    first, _ = probe.extract_features(encoder, [batch])
    second, _ = probe.extract_features(encoder, [batch])
    np.testing.assert_array_equal(first, second)  # no dropout
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_modes_come_back_after_an_error():
    encoder = text_encoder().train()
    with pytest.raises((KeyError, ValueError)):
        probe.extract_features(encoder, [{"input_ids": torch.ones(2, 3, dtype=torch.long)}, {}])  # no input
    assert encoder.training


def test_autocast_around_the_probe_changes_nothing():
    encoder, batch = vision_encoder(), collate_images(images(3))
    plain, _ = probe.extract_features(encoder, [batch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = probe.extract_features(encoder, [batch])
    np.testing.assert_array_equal(plain, inside)


def test_half_precision_encoders_take_fp32_batches():
    encoder, batch = audio_encoder(), collate_audio(clips(97, 97))
    full, _ = probe.extract_features(encoder, [batch])
    half, _ = probe.extract_features(encoder.to(torch.bfloat16), [batch])
    assert half.dtype == np.float32
    np.testing.assert_allclose(full, half, atol=0.1)


def test_subset_is_drawn_once_and_in_order():
    class Examples(list):
        reads = 0

        def __getitem__(self, i):
            self.reads += 1
            return super().__getitem__(i)

    examples = Examples(range(101))
    some = probe.subset(examples, 13, seed=3)
    assert examples.reads == 13 and some == sorted(set(some)) and len(some) == 13
    assert some == probe.subset(examples, 13, seed=3) != probe.subset(examples, 13, seed=4)
    assert probe.subset(examples, 101, seed=3) == list(range(101))


# The teacher


def test_teacher_encoder_has_the_teachers_weights_and_the_students_front_end():
    objective = Data2VecAudioForPreTraining.default_objective | {"top_k_layers": 2}
    model = Data2VecAudioForPreTraining(Data2VecAudioConfig(**TINY | AUDIO, objective=objective))
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(1.0)
    encoder = probe.teacher_encoder(model)
    student, teacher = model.base_model.state_dict(), model.teacher.state_dict()
    assert 0 < len(teacher) < len(student)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, teacher.get(name, student[name])), name
    encoder.encoder.layer_norm.weight.data.zero_()  # a copy
    assert model.teacher.encoder.layer_norm.weight.any() and model.base_model.encoder.layer_norm.weight.any()


def test_teacher_encoder_computes_what_the_teacher_computes():
    objective = Data2VecVisionForPreTraining.default_objective | {"top_k_layers": 3, "target_tap": "end_of_block"}
    sizes = {"image_size": 10, "patch_size": 2, "num_channels": 3, "drop_path_rate": 0.0}
    model = Data2VecVisionForPreTraining(Data2VecVisionConfig(**TINY, **sizes, objective=objective))
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pixels = torch.randn(2, 3, 10, 10)
    output = model(pixels, masked=torch.arange(25).lt(7).expand(2, -1), output_teacher_layers=True)
    states = probe.teacher_encoder(model)(pixels, output_hidden_states=True).hidden_states
    for tap, state in zip(output.teacher_layers, states[1:], strict=True):
        torch.testing.assert_close(tap, state[:, 1:])


def test_teacher_of_another_structure_is_refused():
    objective = Data2VecAudioForPreTraining.default_objective | {"top_k_layers": 2}
    model = Data2VecAudioForPreTraining(Data2VecAudioConfig(**TINY | AUDIO, objective=objective))
    model.teacher.extra = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="extra.weight"):
        probe.teacher_encoder(model)


# Classifiers


def clusters(seed, per_class=23, dim=11, classes=3, distance=1.2):
    """Gaussian classes in columns of very different scale, as (train x, train y, test x, test y)."""
    rng = np.random.default_rng(seed)
    centres = distance * rng.standard_normal((classes, dim))
    parts = []
    for _ in range(2):
        labels = np.repeat(np.arange(classes), per_class)
        x = centres[labels] + rng.standard_normal((len(labels), dim))
        parts += [(5 + x * np.logspace(-2, 3, dim)).astype(np.float32), labels]
    return parts


def standardized(train_x, test_x):
    mean, std = train_x.astype(np.float64).mean(0), train_x.astype(np.float64).std(0)
    return (train_x - mean) / std, (test_x - mean) / std


def naive_knn(train_x, train_y, test_x, test_y, k):
    right = 0
    for row, label in zip(test_x, test_y, strict=True):
        cosines = [row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in train_x]
        nearest = np.argsort(cosines)[-k:]
        right += np.bincount(train_y[nearest]).argmax() == label
    return right / len(test_y)


@pytest.mark.parametrize("k", [1, 7, 10])
def test_knn_is_a_vote_of_the_nearest_by_cosine_on_standardised_features(k):
    train_x, train_y, test_x, test_y = clusters(0)
    x, final_x = standardized(train_x, test_x)
    expected = naive_knn(x, train_y, final_x, test_y, k)
    accuracy = probe.knn_accuracy(train_x, train_y, test_x, test_y, k=k)
    assert accuracy == pytest.approx(expected)
    assert 0.5 < accuracy < 1
    assert accuracy != pytest.approx(naive_knn(train_x, train_y, test_x, test_y, k))  # unstandardised


def test_sparse_features_are_not_standardised():
    train_x, train_y, test_x, test_y = clusters(1)
    expected = naive_knn(train_x, train_y, test_x, test_y, 5)
    data = sparse.csr_matrix(train_x), train_y, sparse.csr_matrix(test_x), test_y
    assert probe.knn_accuracy(*data, k=5) == pytest.approx(expected)
    x, final_x = standardized(train_x, test_x)
    unit = sparse.csr_matrix(x), train_y, sparse.csr_matrix(final_x), test_y
    few = probe.few_label_accuracy(*unit, labels_per_class=7)
    assert few.mean == pytest.approx(
        probe.few_label_accuracy(train_x, train_y, test_x, test_y, labels_per_class=7).mean
    )


def test_knn_refuses_more_neighbours_than_examples():
    with pytest.raises(ValueError, match="k = 70 .* 69 training examples"):
        probe.knn_accuracy(*clusters(0), k=70)


def test_linear_probe_chooses_its_penalty_on_a_part_of_the_training_examples():
    train_x, train_y, test_x, test_y = clusters(2, per_class=40, distance=0.7)
    ((fit, held_out),) = StratifiedShuffleSplit(1, test_size=0.2, random_state=5).split(train_x, train_y)
    scores = {}
    for penalty in (0.001, 0.01, 0.1, 1.0):
        x, validation_x = standardized(train_x[fit], train_x[held_out])
        classifier = LogisticRegression(C=penalty, max_iter=1000).fit(x, train_y[fit])
        scores[penalty] = classifier.score(validation_x, train_y[held_out])
    best = max(scores, key=scores.get)
    x, final_x = standardized(train_x, test_x)
    expected = LogisticRegression(C=best, max_iter=1000).fit(x, train_y).score(final_x, test_y)
    assert probe.linear_probe(train_x, train_y, test_x, test_y, seed=5).accuracy == pytest.approx(expected)
    assert 0.6 < expected < 1


def ridge_by_hand(x, y, new_x, alpha):
    """Predictions of the closed form, the mean of `y` unpenalised; everything in fp64."""
    mean, std = x.mean(0), x.std(0)
    unit = (x - mean) / std
    weights = np.linalg.solve(unit.T @ unit + alpha * np.eye(x.shape[1]), unit.T @ (y - y.mean(0)))
    return (new_x - mean) / std @ weights + y.mean(0)


@pytest.mark.parametrize("values", [None, 2])
def test_numbers_are_predicted_by_a_ridge_regression_with_the_best_penalty(values):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(211, 37)) * rng.uniform(0.1, 9, size=37)
    y = x @ rng.normal(size=(37, values or 1)) + 20 * rng.normal(size=(211, values or 1))
    y = 1.7e9 + (y if values else y[:, 0])  # seconds since 1970: fp32 holds them in steps of 128
    train_x, test_x, train_y = x[:150], x[150:], y[:150]
    ((fit, held_out),) = ShuffleSplit(1, test_size=0.2, random_state=5).split(train_x)
    scores = {
        alpha: r2_score(train_y[held_out], ridge_by_hand(train_x[fit], train_y[fit], train_x[held_out], alpha))
        for alpha in (1.0, 10.0, 100.0, 1000.0, 10000.0)
    }
    best = max(scores, key=scores.get)
    found = probe.ridge_probe(train_x.astype(np.float32), train_y, test_x.astype(np.float32), seed=5)
    assert found.penalty == best and 1 < best < 10_000 and found.validation_r2 == pytest.approx(scores[best], abs=1e-4)
    np.testing.assert_allclose(found.predictions, ridge_by_hand(train_x, train_y, test_x, best), rtol=0, atol=0.1)
    assert found.predictions.shape == y[150:].shape and 0.4 < r2_score(y[150:], found.predictions) < 0.9
    with pytest.raises(ValueError, match="9 examples are too few. Use 10 or more"):
        probe.ridge_probe(train_x[:9], train_y[:9], test_x)


@pytest.mark.parametrize("as_features", [np.asarray, sparse.csr_matrix])
def test_numbers_are_the_mean_of_the_nearest(as_features):
    train_x, _, test_x, _ = clusters(3)
    numbers = train_x[:, 0] + 100.0
    x, final_x = standardized(train_x, test_x) if as_features is np.asarray else (train_x, test_x)
    cosines = (final_x / np.linalg.norm(final_x, axis=1)[:, None]) @ (x / np.linalg.norm(x, axis=1)[:, None]).T
    expected = [numbers[np.argsort(-row)[:4]].mean() for row in cosines]
    found = probe.knn_numbers(as_features(train_x), numbers, as_features(test_x), k=4)
    np.testing.assert_allclose(found, expected)
    with pytest.raises(ValueError, match="k = 70 .* 69 training examples"):
        probe.knn_numbers(train_x, numbers, test_x, k=70)


def test_linear_probe_finds_a_planted_direction_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((600, 17)), rng.integers(2, size=600)
    noise = probe.linear_probe(x[:300], labels[:300], x[300:], labels[300:]).accuracy
    x[:, 5] += 3 * labels
    planted = probe.linear_probe(x[:300], labels[:300], x[300:], labels[300:]).accuracy
    assert abs(noise - 0.5) < 0.1
    assert planted > 0.9


def test_few_labels_are_logistic_regressions_on_the_drawn_examples():
    train_x, train_y, test_x, test_y = clusters(3)
    score = probe.few_label_accuracy(train_x, train_y, test_x, test_y, labels_per_class=4, draws=3, seed=11)
    draws, _ = probe.draw_labelled(train_y, 4, 3, 11)
    x, final_x = standardized(train_x, test_x)  # with all training examples
    expected = [LogisticRegression(C=0.1, max_iter=1000).fit(x[d], train_y[d]).score(final_x, test_y) for d in draws]
    assert score.accuracies == pytest.approx(expected)
    assert score.mean == pytest.approx(sum(expected) / 3)
    assert score.std == pytest.approx((sum((a - score.mean) ** 2 for a in expected) / 2) ** 0.5)


def test_draws_are_balanced_and_leave_the_validation_examples_alone():
    labels = np.repeat([0, 1, 2], [31, 41, 53])
    draws, validation = probe.draw_labelled(labels, 7, 5, seed=0)
    assert len(draws) == 5 and len(validation) == 25
    assert np.bincount(labels[validation]).tolist() == [6, 8, 11]  # a fifth of each class
    for draw in draws:
        assert len(set(draw)) == 21 and np.bincount(labels[draw]).tolist() == [7, 7, 7]
        assert not set(draw) & set(validation)
    assert len({tuple(sorted(draw)) for draw in draws}) == 5


def test_a_large_set_is_not_all_used_for_validation():
    _, validation = probe.draw_labelled(np.arange(6000) % 3, 7, 2, seed=0)
    assert len(validation) == probe.VALIDATION_MOST


def test_seeds_decide_everything():
    data = clusters(4, distance=0.5)
    for accuracy in (
        lambda seed: probe.few_label_accuracy(*data, labels_per_class=3, seed=seed).accuracies,
        lambda seed: [draw.tolist() for draw in probe.draw_labelled(data[1], 3, 4, seed)[0]],
        lambda seed: probe.linear_probe(*data, seed=seed),
    ):
        assert accuracy(1) == accuracy(1)
    assert probe.few_label_accuracy(*data, 3, seed=1) != probe.few_label_accuracy(*data, 3, seed=2)


def test_too_few_examples_are_refused_with_the_class_and_the_fix():
    labels = np.repeat([0, 4], [50, 10])
    with pytest.raises(ValueError, match="labels_per_class = 10 .* class 4 there are 8 .* Use 8 or less"):
        probe.draw_labelled(labels, 10, 5, seed=0)
    with pytest.raises(ValueError, match="draws = 1"):
        probe.draw_labelled(labels, 3, 1, seed=0)
