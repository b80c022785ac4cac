"""What EAT does with clips of any length: rows of patches, padding, positions; and what it refuses."""

import pytest
import torch

from data2vec.modeling import EatConfig, EatForAudioClassification, EatModel
from tests.modeling.tiny_data2vec2 import build, eat_config, inputs, same


def test_a_row_of_patches_that_holds_a_real_frame_is_real() -> None:
    model, mask = build(EatModel), torch.zeros(3, 20, dtype=torch.long)
    for row, frames in enumerate((20, 9, 4)):  # of 4 a patch: 5, 3 and 1 rows of 3
        mask[row, :frames] = 1
    assert model.real_tokens(mask, 15).sum(1).tolist() == [15, 9, 3]
    assert model.real_tokens(None, 15) is None


def test_padding_is_read_where_nothing_says_that_it_is_padding() -> None:
    model, padded = build(EatModel), inputs("eat", padded=True)
    told, untold = model(**padded).last_hidden_state, model(padded["input_values"]).last_hidden_state
    same(told[0], untold[0])
    assert (told[1, :11] - untold[1, :11]).abs().max() > 1e-3


def test_positions_count_from_the_start_and_frames_behind_the_last_row_are_dropped() -> None:
    model = build(EatModel)
    clip = inputs("eat")["input_values"]
    whole, part = (model.embed((values,)) for values in (clip, clip[:, :15]))
    assert whole.grid == (5, 3) and part.grid == (3, 3)
    same(model.positions(part), model.positions(whole)[:, :9])
    same(model(clip[:, :15]).last_hidden_state, model(clip[:, :12]).last_hidden_state)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 20, 5), r"input_values has shape \(2, 20, 5\): pass \(batch, frames, 6\), 4 frames or more"),
        ((2, 3, 6), "4 frames or more"),
        ((2, 1, 20, 6), r"pass \(batch, frames, 6\)"),
        ((2, 32, 6), "a clip has 8 rows of patches: max_position_embeddings = 7 is too small"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(EatModel)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_mel_bins": 7}, "num_mel_bins = 7: must be a multiple of patch_size"),
        ({"patch_size": (4, 2, 1)}, "patch_size = .*one number, or frames and mel bins"),
        ({"classifier_pooling": "max"}, "classifier_pooling = 'max': must be one of cls_token, mean, lin_softmax"),
        ({"num_extra_tokens": 0}, "num_extra_tokens = 0: must be 1 or more with classifier_pooling"),
        ({"utterance_level": True}, "utterance_level = True is not built for model type 'eat'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        eat_config(**fields)


@pytest.mark.parametrize("pooling", ["mean", "lin_softmax"])
def test_poolings_of_patches_pass_over_padding(pooling: str) -> None:
    model, padded = build(EatForAudioClassification, classifier_pooling=pooling), inputs("eat", padded=True)
    same(model(**padded).logits[1:2], model(padded["input_values"][1:2, :12]).logits)


def test_the_published_weight_of_the_utterance_loss_is_relative_to_a_mean() -> None:
    objective = EatConfig().objective
    assert objective["cls_loss_weight"] == 1 * 12 * objective["views"]
