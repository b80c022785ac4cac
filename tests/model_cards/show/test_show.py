"""`data2vec show`: what is drawn is what the encoder gives, counted by other means."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from data2vec.cli import main
from data2vec.finetune.embed import open_frozen
from data2vec.model_cards.show.draw import agreement, colours_of, looked_at, nearest
from tests.finetune.encoders import encoder_folder
from tests.finetune.test_run_probe import images, sounds, texts


CASES = [
    ("vision", "v1", images),
    ("vision", "v2", images),
    ("audio", "v1", sounds),
    ("audio", "v2", sounds),
    ("spectrogram", "v2", sounds),
    ("text", "v2", texts),
]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    def make(modality, family, data, count=5):
        monkeypatch.chdir(tmp_path)
        return str(encoder_folder(tmp_path / "encoder", modality, family)), data(tmp_path / "data", count, 0)["path"]

    return make


@pytest.mark.parametrize(("modality", "family", "data"), CASES)
def test_pictures_of_every_modality(modality, family, data, opened, tmp_path, capsys):
    encoder, source = opened(modality, family, data)
    if modality == "text":
        assert main(["show", encoder, source]) == 2
        assert "add --neighbours 3" in capsys.readouterr().err
    else:
        assert main(["show", encoder, source, "--num", "3", "--layer", "1"]) == 0
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.width == 880 and 200 < picture.height < 900
            assert len(set(picture.resize((60, 60)).get_flattened_data())) > 50
    capsys.readouterr()
    assert main(["show", encoder, source, "--num", "2", "--neighbours", "3", "--weights", "student"]) == 0
    said = capsys.readouterr().out
    if modality == "text":
        assert "Over all 10 examples, " in said and "drawn at random, 44.4 % would" in said  # two classes of 5: 4 of 9
        written = (tmp_path / "neighbours.txt").read_text()
        assert written.strip() in said
        assert len([line for line in written.splitlines() if line.startswith("    ")]) == 6
    else:
        with Image.open(tmp_path / "neighbours.png") as picture:
            assert picture.width == 880 and picture.height > 200


def test_numbers_are_shown(opened, tmp_path, capsys):
    encoder, source = opened("text", "v2", texts)
    rows = [json.loads(line) for line in Path(source).read_text().splitlines()]
    Path(source).write_text("\n".join(json.dumps({"text": row["text"], "label": i / 4}) for i, row in enumerate(rows)))
    assert main(["show", encoder, source, "--num", "2", "--neighbours", "3"]) == 0
    said = capsys.readouterr().out
    assert "[0] " in said and "[2.25] " in said and "Over all" not in said


def test_wide_images_are_drawn_wide(opened, tmp_path):
    """Lines of print: a strip each, one below the other."""
    encoder, source = opened("vision", "v2", images)
    config, processor = AutoConfig.from_pretrained(encoder), AutoImageProcessor.from_pretrained(encoder)
    config.image_size = [config.patch_size, 16 * config.patch_size]
    AutoModel.from_config(config).save_pretrained(encoder)
    processor.size = {"height": config.image_size[0], "width": config.image_size[1]}
    processor.save_pretrained(encoder)
    assert main(["show", encoder, source, "--num", "4", "--layer", "1"]) == 0
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width == 880 and picture.height < 500  # squares of this width would take 1,200
    assert main(["show", encoder, source, "--num", "4", "--neighbours", "1"]) == 0
    with Image.open(tmp_path / "neighbours.png") as picture:
        assert picture.width == 880 and picture.height < 300  # four rows of squares would take 1,900


@pytest.mark.parametrize("family", ["v1", "v2"])
def test_attention_is_that_of_the_model(family, opened, tmp_path):
    encoder, source = opened("vision", family, images)
    frozen = open_frozen(
        encoder, {"train": {"path": source}}, {"layer": "last"}, tmp_path, [], attn_implementation="eager"
    )
    batch = frozen.collate([frozen.examples[i] for i in range(3)])
    seen = looked_at(frozen.encoder, batch, 1)
    with torch.no_grad():
        output = frozen.encoder(batch["pixel_values"], output_attentions=True, output_hidden_states=True)
    assert len(output.attentions) == len(output.hidden_states) - 1  # block i gives hidden state i + 1
    heads = output.attentions[1].numpy()
    np.testing.assert_allclose(heads.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(seen, heads[:, :, 0, 1:].mean(1), atol=1e-6)
    np.testing.assert_allclose(seen.sum(1) + heads[:, :, 0, 0].mean(1), 1, atol=1e-5)
    assert seen.shape == (3, 16)


def test_colours_are_the_principal_components_of_all_parts():
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(count, 6)) * np.arange(1, 7) for count in (40, 70)]
    colours = colours_of(features)
    assert [shown.shape for shown in colours] == [(40, 3), (70, 3)]
    together = np.vstack(features)
    left, scale, _ = np.linalg.svd(together - together.mean(0), full_matrices=False)
    for channel, component in zip(np.vstack(colours).T, (left * scale)[:, :3].T, strict=True):
        ordinary = (channel > 0) & (channel < 255)
        assert ordinary.mean() > 0.9  # a percent at each end is cut
        assert abs(np.corrcoef(channel[ordinary], component[ordinary])[0, 1]) > 0.9999


def test_neighbours_are_those_of_a_plain_loop():
    features = np.random.default_rng(1).normal(size=(30, 5)) + 10
    found, cosines = nearest(features, 4)
    scaled = (features - features.mean(0)) / features.std(0)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    for query in range(30):
        others = sorted((-float(unit[query] @ unit[i]), i) for i in range(30) if i != query)[:4]
        assert found[query].tolist() == [i for _, i in others]
        np.testing.assert_allclose(cosines[query], [-value for value, _ in others], atol=1e-6)
    labels = np.arange(30) % 3
    pairs = [labels[i] == labels[j] for i in range(30) for j in range(30) if i != j]
    share, chance = agreement(labels, found)
    assert chance == pytest.approx(np.mean(pairs))
    assert share == pytest.approx(np.mean([labels[i] == labels[j] for i in range(30) for j in found[i]]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--neighbours", "10"], "--neighbours 10 is invalid: there are 10 examples"),
        (["--neighbours", "0"], "--neighbours 0 is invalid: use 1 or more"),
        (["--num", "-1"], "--num -1 is invalid"),
        (["--layer", "average"], "--layer average is invalid: it has no attention"),
        (["--layer", "0"], "--layer 0 is invalid: it has no attention"),
        (["--layer", "all"], "--layer all is invalid"),
        (["--layer", "9"], "task.layer = 9 is invalid: the encoder has layers 0 to 2"),
    ],
)
def test_refusals_are_one_line(words, message, opened, tmp_path, capsys):
    encoder, source = opened("vision", "v1", images)
    assert main(["show", encoder, source, *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_data_may_be_the_fields_of_a_source(opened, capsys):
    encoder, source = opened("vision", "v1", images)
    assert main(["show", encoder, f"{{path: {source}}}", "--num", "2"]) == 0
    for command in ("show", "embed"):
        assert main([command, encoder, "{split: test}"]) == 2
        assert "DATA = {split: test} has no path" in capsys.readouterr().err


def test_points_have_no_picture(opened, tmp_path, capsys):
    encoder = str(encoder_folder(tmp_path / "points", "points", "v2"))
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    np.save(tmp_path / "other.npy", np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32))
    assert main(["show", encoder, str(tmp_path / "*.npy")]) == 2
    assert "No picture for" in capsys.readouterr().err
