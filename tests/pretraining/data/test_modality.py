"""Which modality a model reads, and what each layer knows of it."""

import pytest
from transformers import ASTConfig, BertConfig, HubertConfig, ViTConfig

from data2vec.pretraining.data.modality import Registry
from data2vec.pretraining.modalities.audio import AudioData
from data2vec.pretraining.modalities.build import MODEL_TYPES, modality_of
from data2vec.pretraining.modalities.image import ImageData
from data2vec.pretraining.modalities.text import TextData


@pytest.mark.parametrize(
    ("model", "modality"),
    [
        ("data2vec-audio", AudioData),
        ("data2vec2-text", TextData),
        (ViTConfig(), ImageData),
        (HubertConfig(), AudioData),
        (BertConfig(), TextData),
    ],
)
def test_a_model_is_read_by_its_type_or_by_what_its_configuration_says(model, modality):
    assert modality_of(model) is modality


def test_spectrograms_are_no_waveforms_although_both_are_input_values():
    with pytest.raises(ValueError, match="-transformer' is of no known modality: use one of data2vec-"):
        modality_of(ASTConfig())


def test_a_new_type_is_one_line(monkeypatch):
    monkeypatch.setitem(MODEL_TYPES, "emotion2vec", AudioData)
    assert modality_of("emotion2vec") is AudioData


def test_a_subclass_shares_what_its_parent_has_until_it_has_its_own():
    class Spectrograms(AudioData):
        name = "spectrograms"

    drawings = Registry("drawing", {AudioData: "waves", TextData: "words"})
    assert drawings[Spectrograms] == "waves"
    drawings[Spectrograms] = "patches"
    assert (drawings[Spectrograms], drawings[AudioData]) == ("patches", "waves")
    with pytest.raises(ValueError, match="No drawing for images, only for speech, text, spectrograms"):
        drawings[ImageData]
