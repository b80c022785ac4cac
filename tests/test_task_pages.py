"""Every code block of docs/fine_tuning.md and docs/tasks, run in the order of its page, as a reader would."""

import json
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from data2vec.finetune.arguments import resolve
from data2vec.finetune.image.task import ImageClassification
from data2vec.modeling import Point2VecFeatureExtractor, Point2VecModel
from data2vec.pretraining.data.builtin_shapes import SOLIDS
from data2vec.pretraining.recipe import parse_yaml
from tests.code_blocks import ROOT, blocks_of, run_block
from tests.finetune.clips import ENCODERS, figure_row, talk_row
from tests.finetune.encoders import encoder_folder
from tests.modeling.tiny_point2vec import points_config
from tests.modeling.tiny_streams import av_config, sv_config


PAGES = [ROOT / "docs" / "fine_tuning.md", *sorted((ROOT / "docs" / "tasks").glob("*.md"))]
BLOCKS = [(page.stem, language, code) for page in PAGES for language, code in blocks_of(page)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a reader brings: small encoders and data."""
    here = tmp_path_factory.mktemp("reader")
    (here / "docs").symlink_to(ROOT / "docs")
    for modality in ("audio", "text", "vision"):
        (here / f"my_{modality}_encoder").mkdir()
        encoder_folder(here / f"my_{modality}_encoder", modality, "v1")
    photos(here / "my_photos")
    reviews(here / "my_reviews.csv")
    speech(here / "my_speech")
    sounds(here / "my_sounds")
    scans(here)
    films(here)
    return here


def photos(folder: Path) -> None:
    """40 x 48 pixels of two patterns, in train/ and test/."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for kind in ("stripes", "noise"):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, size=(40, 48, 3), dtype=np.uint8)
                if kind == "stripes":
                    pixels[::4] = 255
                Image.fromarray(pixels).save(folder / split / kind / f"{i}.png")


def reviews(file: Path) -> None:
    """80 rows of two texts and a verdict."""
    lines = [f"{word} {n},it was {word} for the {n},{word}" for n in range(40) for word in ("good", "bad")]
    file.write_text("\n".join(["title,review,verdict", *lines]) + "\n")


def speech(folder: Path) -> None:
    """Clips of noise at two rates and what is said in them, in a manifest a split; and text for a language model."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    words = ["ONE", "TWO", "THREE"]
    for split, count in (("train", 12), ("validation", 3), ("test", 3)):
        lines = []
        for i in range(count):
            soundfile.write(folder / f"{split}{i}.wav", 0.1 * rng.normal(size=9000 + 500 * i), (16_000, 8_000)[i % 2])
            lines.append(json.dumps({"audio": f"{split}{i}.wav", "text": " ".join(rng.choice(words, size=2))}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    (folder / "words.txt").write_text("\n".join(" ".join(rng.permutation(words)) for _ in range(9)))


def sounds(folder: Path) -> None:
    """Clips of half a second, of tones and of noise, in train/ and test/."""
    rng = np.random.default_rng(2)
    for split, count in (("train", 20), ("test", 6)):
        for kind in ("tone", "noise"):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                wave = np.sin(np.arange(8000) * (0.1 + 0.01 * i)) if kind == "tone" else rng.normal(size=8000)
                soundfile.write(folder / split / kind / f"{i}.wav", 0.2 * wave, 16_000)


def scans(here: Path) -> None:
    """A small encoder of points; scans of balls and boxes as arrays, and as text with the halves as parts."""
    Point2VecModel(points_config()).save_pretrained(here / "my_points_encoder")
    Point2VecFeatureExtractor(num_points=64).save_pretrained(here / "my_points_encoder")
    rng = np.random.default_rng(3)
    for split, count in (("train", 20), ("test", 6)):
        for number, kind in enumerate(("ball", "box")):
            for data in ("my_scans", "my_objects"):
                (here / data / split / kind).mkdir(parents=True)
            for i in range(count):
                points = SOLIDS[kind](90, rng)
                np.save(here / "my_scans" / split / kind / f"{i}.npy", points)
                parts = 2 * number + (points[:, 2:] > 0)
                np.savetxt(here / "my_objects" / split / kind / f"{i}.txt", np.hstack((points, parts)))


def films(here: Path) -> None:
    """Small encoders of two streams, and the clips that they read."""
    clips = {"video": ("sv", "my_clips", figure_row), "lips": ("av", "my_talks", talk_row)}
    for name, (kind, folder, row) in clips.items():
        config = sv_config(num_channels=3, num_joints=5) if kind == "sv" else av_config()
        model_class, extractor = ENCODERS[kind]
        model_class(config).save_pretrained(here / f"my_{name}_encoder")
        extractor.of(config).save_pretrained(here / f"my_{name}_encoder")
        for split, size in (("train", 16), ("test", 6)):
            (here / folder).mkdir(exist_ok=True)
            rows = [row(i, np.random.default_rng(i)) for i in range(size)]
            datasets.Dataset.from_list(rows).to_parquet(here / folder / f"{split}.parquet")


@pytest.mark.parametrize(("page", "language", "code"), [block for block in BLOCKS if block[1] != "yaml"])
def test_block(page, language, code, folder):
    if page == "phones" and any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        pytest.skip("the export extra is not installed")
    run_block(language, code, folder)


@pytest.mark.parametrize("code", [code for _, language, code in BLOCKS if language == "yaml"])
def test_recipe_of_the_page(code, folder):
    """Every field of a recipe that is shown exists, but for the configuration's, which are the reader's encoder's."""
    recipe = parse_yaml(code)
    recipe["model"] = {"model_name_or_path": str(folder / "my_vision_encoder")}
    run = resolve(recipe, ImageClassification)
    assert run.training.layer_decay == 0.65 and run.data.validation_share == 0.1
