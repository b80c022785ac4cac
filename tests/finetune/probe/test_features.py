"""Feature files: what is written is what the encoder computes, for every layer, whole or not there at all."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModel

from data2vec.finetune.examples import Examples
from data2vec.finetune.probe import features
from data2vec.finetune.probe.features import PART, FeatureFolder, Part, fingerprint, write_features
from data2vec.pretraining.data.collators import pad
from data2vec.pretraining.modalities.text_rows import TEXT
from tests.finetune.encoders import encoder_folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = encoder_folder(tmp_path_factory.mktemp("encoder"), "text", "v1")
    return AutoModel.from_pretrained(folder).eval()


def texts(count):
    """Rows of 3 to 13 ids, and the examples of every second one."""
    rng = np.random.default_rng(0)
    rows = [{"input_ids": torch.tensor([0, *rng.integers(5, 20, size=rng.integers(1, 12)), 2])} for _ in range(count)]
    labels = rng.integers(0, 3, size=count)
    examples = Examples(rows, lambda row, _: dict(row), name="train", seed=0, labels=labels, keep=range(0, count, 2))
    return rows, labels, examples


TEXTS = SimpleNamespace(kind=TEXT, length=lambda example: len(example["input_ids"]))


def collate(examples):
    batch, _ = pad([example["input_ids"] for example in examples], "input_ids", 1)
    return batch


def write(encoder, examples, path, layer, format="parquet", pooled=True, **how):
    folder = FeatureFolder(path, format, {"weights": fingerprint(encoder)})
    how = {"layer": layer, "pooled": pooled, "batch_size": 7, "modality": TEXTS, **how}
    parts = write_features(encoder, examples, collate, folder, **how)
    return folder, parts


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
@pytest.mark.parametrize("pooled", [True, False])
def test_features_are_those_of_each_text_alone(tmp_path, encoder, format, pooled):
    rows, labels, examples = texts(46)
    folder, parts = write(encoder, examples, tmp_path / "f", "all", format, pooled)
    part = folder.read(0)
    assert parts == 1 and list(part.layers) == ["layer_0", "layer_1", "layer_2"]
    np.testing.assert_array_equal(part.ids, np.arange(0, 46, 2))
    np.testing.assert_array_equal(part.labels, labels[::2])
    for number, row in enumerate(part.ids):
        with torch.no_grad():
            states = encoder(rows[row]["input_ids"][None], output_hidden_states=True).hidden_states
        for layer, values in enumerate(states):
            alone = values[0].numpy()  # (tokens, dim)
            found = part.layers[f"layer_{layer}"][number]
            np.testing.assert_allclose(found, alone.mean(0) if pooled else alone, atol=1e-5)
    layers, loaded_labels = folder.load(parts)
    assert len(layers["layer_2"]) == 23
    np.testing.assert_allclose(layers["layer_2"][-1], alone.mean(0) if pooled else alone, atol=1e-5)
    np.testing.assert_array_equal(loaded_labels, labels[::2])


def test_one_layer_the_last_one_and_the_average(tmp_path, encoder):
    _, _, examples = texts(11)
    layers = {
        str(layer): FeatureFolder.load(*write(encoder, examples, tmp_path / str(layer), layer))[0]
        for layer in ("all", "last", "average", 1)
    }
    every = layers["all"]
    np.testing.assert_allclose(layers["last"]["last"], every["layer_2"], atol=1e-6)
    np.testing.assert_allclose(layers["average"]["average"], sum(map(np.array, every.values())) / 3, atol=1e-5)
    np.testing.assert_allclose(layers["1"]["layer_1"], every["layer_1"], atol=1e-6)


def test_datasets_opens_the_parquet_files(tmp_path, encoder):
    _, labels, examples = texts(11)
    write(encoder, examples, tmp_path / "f", "last")
    opened = datasets.load_dataset("parquet", data_files=str(tmp_path / "f" / "*.parquet"), split="train")
    assert opened.column_names == ["id", "name", "label", "last"]
    assert len(opened[0]["last"]) == 24 and opened["label"][:] == labels[::2].tolist()


def test_a_stopped_job_computes_what_is_missing_and_ranks_share_the_work(tmp_path, encoder, monkeypatch):
    _, _, examples = texts(2 * PART + 70)  # PART + 35 examples: two parts
    whole, parts = write(encoder, examples, tmp_path / "whole", "last")
    assert parts == 2

    def stop(path, part):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setitem(features.WRITERS, "parquet", stop)
        with pytest.raises(KeyboardInterrupt):
            write(encoder, examples, tmp_path / "f", "last")
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["manifest.json"], "no half of a file"

    folder, _ = write(encoder, examples, tmp_path / "f", "last", process=(1, 2))
    assert [folder.file(number).is_file() for number in (0, 1)] == [False, True]
    written = folder.file(1).stat().st_mtime_ns
    read = []
    monkeypatch.setattr(examples, "read", lambda row, _: read.append(row) or dict(row))
    write(encoder, examples, tmp_path / "f", "last")
    assert len(read) == PART and folder.file(1).stat().st_mtime_ns == written, "the part that was there is left alone"
    for mine, expected in zip(folder.load(2), whole.load(2), strict=True):
        np.testing.assert_equal(mine, expected)


def test_features_of_other_weights_are_not_mixed_in(tmp_path, encoder):
    folder = FeatureFolder(tmp_path / "f", "parquet", {"weights": fingerprint(encoder)})
    folder.write(0, Part(np.arange(2), np.arange(2), ["a", ""], {"last": list(np.ones((2, 3), np.float32))}))
    other = type(encoder)(encoder.config)
    with pytest.raises(ValueError, match="holds features with another weights"):
        FeatureFolder(tmp_path / "f", "parquet", {"weights": fingerprint(other)})
    with pytest.raises(ValueError, match="holds features with another format"):
        FeatureFolder(tmp_path / "f", "safetensors", {"weights": fingerprint(encoder)})
    assert json.loads((tmp_path / "f/manifest.json").read_text())["format"] == "parquet"
    assert FeatureFolder(tmp_path / "f", "parquet", {"weights": fingerprint(encoder)}).read(0).names == ["a", ""]
