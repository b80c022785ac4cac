"""Volumes as slices: hidden patches are covered, features and attention lie where they are; a page in a browser."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data2vec.model_cards.report.command import write_page
from data2vec.model_cards.report.draw_volume import GAP, VolumeDrawing
from data2vec.model_cards.report.figures import COVER
from data2vec.model_cards.report.inputs import Masked
from data2vec.modeling import MedCossVolumeModel
from data2vec.pretraining import run
from tests.model_cards.browser import LAPTOP, PHONE, Browser, chromium
from tests.modeling.tiny_medcoss import volume_config


SIZE = (112 // 10) * np.array([9, 10])  # pixels of a slice of 9 x 10 voxels


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    encoder = MedCossVolumeModel(volume_config()).eval()
    return SimpleNamespace(modality=SimpleNamespace(grid=(2, 3, 2)), encoder=lambda: encoder)


def example(hidden=()):
    """Slice 2 of 4 is darker than slice 4; they are the middles of the two layers of patches."""
    values = torch.full((1, 1, 4, 9, 10), -0.5)
    values[:, :, 2:] = 0.5
    values += 0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    masked = np.zeros((1, 12), dtype=bool)
    masked[0, list(hidden)] = True
    return Masked("scan", {"voxel_values": values}, masked, False)


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png)).convert("RGB")).astype(int)


def slices(figure):
    image = pixels(figure)
    assert image.shape == (SIZE[0], 2 * SIZE[1] + GAP, 3)
    return image[:, : SIZE[1]], image[:, SIZE[1] + GAP :]


def patches(image):
    """(3, 2, height, width, 3)"""
    high, wide = SIZE // (3, 2)
    return image.reshape(3, high, 2, wide, 3).swapaxes(1, 2)


def test_hidden_patches_are_covered_in_their_slice(inputs):
    whole, view = VolumeDrawing().masks(inputs, example(hidden=(1, 6)), "a")
    assert whole.caption == "what the teacher sees: slices 2, 4 of 4"
    assert view.caption == "2 of 12 patches hidden (17 %)"
    upper, lower = slices(whole)
    assert upper.mean() == pytest.approx(64, abs=12) and lower.mean() == pytest.approx(191, abs=12)
    for number, image in enumerate(slices(view)):
        blue = np.abs(patches(image) - np.reshape(COVER, (2, 1, 1, 1, 1, 3))).max(-1).min(0) < 12
        expected = np.zeros((3, 2))
        expected.flat[[1] if number == 0 else [0]] = 1
        np.testing.assert_allclose(blue.mean((2, 3)), expected, atol=0.1)


def test_features_and_attention_are_drawn_on_their_patches(inputs):
    maps = [np.full((12, 12), 1 / 12) for _ in range(3)]
    maps[0] = np.eye(12)[[7] * 12]  # all look at the second patch of the second layer
    found = {figure.name: figure for figure in VolumeDrawing().attention(inputs, example(), maps, "a")}
    assert list(found) == ["a_features", "a_block1", "a_block2", "a_block3"]
    assert found["a_block1"].caption == "first block: strongest patch 12.0 × the average"
    colour = [patches(image).std((2, 3)).max() for image in slices(found["a_features"])]
    assert max(colour) < 12, "one colour in each patch, on the grey of its voxels"
    between = patches(slices(found["a_features"])[0]).mean((2, 3)).std((0, 1)).max()
    assert between > 20
    dark, bright = (patches(image).mean((2, 3, 4)) for image in slices(found["a_block1"]))
    assert bright.argmax() == 1 and bright.flat[1] > np.delete(bright, 1).max() + 60 > dark.max() + 60


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of a run on volumes that have more layers than are shown, and longer slices."""
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "ct").mkdir()
    for number in range(8):
        values = np.random.default_rng(number).normal(size=(14, 30, 44)).astype(np.float32)
        np.save(folder / "ct" / f"{number}.npy", values + np.linspace(0, 4, 44, dtype=np.float32))
    config = volume_config(image_size=[12, 27, 40], num_positions=433).to_dict()
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
    names += ("model_type", "image_size", "num_positions")
    made = {
        "model": {name: config[name] for name in names},
        "objective": {"top_k_layers": 2, "decoder": config["objective"]["decoder"], "ema_anneal_steps": 0},
        "data": {"sources": [{"path": str(folder / "ct")}]},
        "training": {"output_dir": str(folder / "run"), "max_steps": 2, "logging_steps": 1, "use_cpu": True}
        | {"per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": True, "guard_patience": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(made))
    assert run.main([str(folder / "recipe.yaml")]) == 0
    return write_page([folder / "run"], folder / "page.html")


def test_a_page_of_volumes_shows_everything(page):
    text = page.read_text(encoding="utf-8")
    for key in ("masks", "features", "attention"):
        shown = text[text.index(f'<section id="{key}"') :]
        assert "Not shown" not in shown[: shown.index("</section>")], key
    assert "slices 2, 6, 8, 12 of 12" in text


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
def test_a_page_of_volumes_fits_a_phone_and_a_laptop(page):
    with Browser(chromium()) as browser:
        for size in (PHONE, LAPTOP):
            browser.open(page.as_uri(), size)
            assert browser.errors == [] and browser.run("document.documentElement.scrollWidth") <= size[0]
            assert browser.run("[...document.images].every(image => image.naturalWidth > 0)")
