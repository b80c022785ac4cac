"""Few-label fine-tuning on images of three patterns."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
)

from data2vec.pretraining.evaluation.fine_tuning import Classifier, fine_tune_accuracy
from data2vec.pretraining.evaluation.probe import draw_labelled, pooled_features
from tests.pretraining.evaluation.pattern_images import collate, encoder, patterns


def tune(model, train, test, **settings):
    defaults = {"labels_per_class": 7, "steps": 30, "learning_rates": [1e-2], "draws": 2, "batch_size": 11}
    return fine_tune_accuracy(model, train, test, collate, 3, **defaults | settings)


def test_it_learns_what_is_there_and_nothing_from_shuffled_labels():
    train, test = patterns(120, seed=1), patterns(90, seed=2)
    assert tune(encoder(), train, test).mean > 0.8
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3)).tolist()
    shuffled = [{**example, "labels": train[i]["labels"]} for i, example in zip(order, train, strict=True)]
    assert tune(encoder(), shuffled, test).mean < 0.55


def test_a_pretrained_encoder_beats_the_same_network_from_scratch():
    scratch, test = encoder(), patterns(90, seed=2, noise=2.0)
    torch.manual_seed(0)
    teacher = Classifier(scratch, 3).train()
    optimizer = torch.optim.AdamW(teacher.parameters(), 3e-3)
    for step in range(120):  # "pretraining": many labelled examples
        batch = collate(patterns(33, seed=100 + step, noise=2.0))
        cross_entropy(teacher(batch), batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    train = patterns(120, seed=1, noise=2.0)
    pretrained_score = tune(teacher.encoder, train, test, labels_per_class=3, learning_rates=[1e-3])
    scratch_score = tune(scratch, train, test, labels_per_class=3, learning_rates=[1e-3])
    assert pretrained_score.mean > scratch_score.mean + 0.1


def test_the_learning_rate_is_chosen_on_validation_examples():
    train, test = patterns(120, seed=1), patterns(30, seed=2)
    score = tune(encoder(), train, test, learning_rates=[1e-9, 1e-2])
    assert score.learning_rate == 1e-2
    assert score.validation_accuracies[1e-2] > score.validation_accuracies[1e-9]
    assert score.validation_examples == 24
    # the test examples choose nothing: with all of them mislabelled the choice is the same
    wrong = [{**example, "labels": (example["labels"] + 1) % 3} for example in test]
    again = tune(encoder(), train, wrong, learning_rates=[1e-9, 1e-2])
    assert again.validation_accuracies == score.validation_accuracies and again.learning_rate == 1e-2
    assert again.mean < score.mean


def test_only_the_drawn_examples_are_trained_on():
    train, test = patterns(60, seed=1), patterns(30, seed=2)
    labels = torch.tensor([example["labels"] for example in train]).numpy()
    draws, validation = draw_labelled(labels, 7, 2, 0)
    used = {int(i) for draw in draws for i in draw}
    expected = tune(encoder(), train, test)
    assert len(used) < 48

    def spoil(kept):
        blank = {"pixel_values": torch.full((1, 6, 6), torch.nan)}
        return [example if i in kept else example | blank for i, example in enumerate(train)]

    assert tune(encoder(), spoil(used | set(validation.tolist())), test) == expected
    assert tune(encoder(), spoil(used), test).accuracies == expected.accuracies


def test_nothing_outside_is_touched_and_the_seed_decides():
    model, train, test = encoder().eval(), patterns(60, seed=1, noise=2.0), patterns(60, seed=2, noise=2.0)
    model.requires_grad_(False)  # a frozen encoder is fine-tuned as well
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    first = tune(model, train, test)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    torch.manual_seed(99)
    assert tune(model, train, test) == first
    assert tune(model, train, test, seed=1) != first
    assert len(first.accuracies) == 2


def test_every_weight_of_the_encoder_is_trained():
    model = Classifier(encoder(), 3)
    batch = collate(patterns(9, seed=1))
    cross_entropy(model(batch), batch["labels"]).backward()
    still = {name for name, parameter in model.encoder.named_parameters() if parameter.grad is None}
    assert still <= {"embeddings.mask_token", "pooler.layernorm.weight", "pooler.layernorm.bias"}, still


def test_spec_augment_is_off():
    config = Data2VecAudioConfig(
        hidden_size=14, num_hidden_layers=1, num_attention_heads=2, intermediate_size=22, conv_dim=(6,),
        conv_kernel=(7,), conv_stride=(5,), num_conv_pos_embeddings=1, conv_pos_kernel_size=3,
        num_conv_pos_embedding_groups=2, mask_time_prob=0.9, mask_time_length=2, hidden_dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
    )  # fmt: skip
    audio = Data2VecAudioModel(config)
    batch = {"input_values": torch.randn(3, 211)}
    model = Classifier(audio, 3).train()
    expected = pooled_features(copy.deepcopy(audio).eval(), batch)
    torch.testing.assert_close(pooled_features(model.encoder, batch), expected)
    assert getattr(audio.config, "apply_spec_augment", True)  # of the copy only


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="labels_per_class = 17"):
        tune(encoder(), patterns(60, seed=1), patterns(30, seed=2), labels_per_class=17)
