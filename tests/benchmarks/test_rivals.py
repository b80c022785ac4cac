"""benchmarks/rivals.py: that every arm trains and is probed, and that the page is drawn. Not who is better."""

import json
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import rivals
import torch
from PIL import Image
from rival_arms import ARMS, CONTROLS, Trunk, crops


CLASSES, IMAGES = 4, 48
TINY = Trunk(width=16, depth=2, heads=2)
LIBRARY = {"stable": "stable_pretraining", "lightly": "lightly"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class is their brightness."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    labels = [number % CLASSES for number in range(IMAGES)]
    pixels = [rng.integers(60 * label, 60 * label + 60, (32, 32, 3)).astype(np.uint8) for label in labels]
    rows = datasets.Dataset.from_dict({"image": [Image.fromarray(one) for one in pixels], "label": labels})
    for split in ("train", "test"):
        rows.to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "data2vec2" else pytest.mark.slow) for name in ARMS]
)
def test_an_arm_trains_and_is_probed(name: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = LIBRARY.get(name.split("_")[0])
    if library is not None and find_spec(library) is None:
        pytest.skip(f"{library} is not installed: it is of the extra `rivals`")
    monkeypatch.setattr(rivals, "TIMED", 3)
    found = rivals.measure(name, data, seconds=0.01, tune_seconds=0.01, labels=IMAGES, trunk=TINY)
    assert found["updates"] == 3 and found["images_seen"] == 3 * found["settings"].get("batch", 16)
    assert 0 < found["seconds"] and np.isfinite(found["loss"]).all()
    assert [one["settings"] for one in found["tried"]] == list(ARMS[name].candidates)
    networks = {read.split(",")[0] for read in found["layers"]}
    assert networks == ({"encoder"} if "mae" in name else {"student", "teacher"})
    poolings = {read.split(", ")[2] for read in found["layers"]}
    assert poolings == {"mean", "CLS"} and found["linear"] == found["layers"][found["linear_of"]]
    assert found["linear"] > 60, "brightness is easily told apart"


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_probed_alone(name: str, data: Path) -> None:
    found = rivals.measure(name, data, seconds=0, tune_seconds=0, labels=IMAGES, trunk=TINY)
    assert "updates" not in found and found["linear"] > 60 and found["knn"] > 100 / CLASSES


def test_the_decoder_of_masked_autoencoders_is_two_thirds_of_the_encoder() -> None:
    assert Trunk(width=768, depth=12, heads=16).decoder == (512, 8, 16)  # MAE's own, of ViT-B


def test_crops_are_of_the_area_and_mirrored_by_half() -> None:
    """Ramps along both sides stay ramps, whose slopes say how large the crop is."""
    count, ramp = 200, (torch.arange(32) + 0.5) / 32
    images = torch.empty(count, 3, 32, 32)
    images[:, 0], images[:, 1] = ramp, ramp[:, None]
    images[:, 2] = torch.arange(count).view(-1, 1, 1)
    cropped = torch.cat(list(islice(crops(images, 50), count // 50)))
    assert sorted(cropped[:, 2].mean((1, 2)).round().int().tolist()) == list(range(count)), "each image once"
    across = (cropped[:, 0, 16, 20] - cropped[:, 0, 16, 12]) / (ramp[20] - ramp[12])
    down = (cropped[:, 1, 20, 16] - cropped[:, 1, 12, 16]) / (ramp[20] - ramp[12])
    area = (across * down).abs()
    assert 0.19 < area.min() < 0.25 and 0.85 < area.max() < 1.01
    assert 0.4 < (across < 0).float().mean() < 0.6 and (down > 0).all()


def test_the_page_gets_the_table_and_the_picture(tmp_path: Path) -> None:
    one = {"linear": 51.24, "knn": 40.5, "linear_of": "student, layer 3, mean"}
    trained = {"title": "data2vec 2.0, ours", "updates": 2000, "images_seen": 32000, "seconds": 600.4, **one}
    arms = {"pixels": {"title": "pixels", **one}, "data2vec2": trained}
    (tmp_path / "results.json").write_text(json.dumps(arms))
    page = tmp_path / "README.md"
    page.write_text(f"# Title\n\n{rivals.BEGIN}\nold\n{rivals.END}\n\nAfter.\n")
    for _ in range(2):  # drawn again, it stays the same
        rivals.draw(tmp_path)
        lines = page.read_text().splitlines()
        assert lines[0] == "# Title" and lines[-1] == "After." and "old" not in lines
        rows = [line for line in lines if line.startswith("| ")][2:]
        assert rows[0] == "| data2vec 2.0, ours | 2,000 | 32,000 | 600 | 51.2 | 40.5 | student, layer 3, mean |"
        assert rows[1].startswith("| pixels | - | - | - | 51.2 ")
    assert (tmp_path / "rivals.png").read_bytes().startswith(b"\x89PNG")
