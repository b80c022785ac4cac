"""Images: every format and colour mode is read right, augmented by its key, and named when it cannot be used."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, Data2VecVisionConfig

from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.image import (
    ImageData,
    ImageDataArguments,
    choose_crop,
    color_jitter,
    open_image,
    random_resized_crop,
    shift,
)


def image_data(channels: int = 3, size: int = 24, **fields) -> ImageData:
    fields = {"sources": [{"path": "unused"}]} | fields
    config = Data2VecVisionConfig(image_size=size, patch_size=4, num_channels=channels)
    return ImageData(ImageDataArguments(**fields), config)


def examples_of(folder: Path, modality: ImageData, **how) -> PretrainingDataset:
    rows = load_source(Source(path=str(folder)), modality.kind)
    return PretrainingDataset([modality.prepare(rows)], modality, seed=7, **how)


def picture(width: int = 60, height: int = 44) -> Image.Image:
    """Smooth colours without symmetry, so that a wrong flip, turn or channel shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((255 * np.stack([x, y**2, (x + 2 * y) / 3], axis=-1)).astype(np.uint8))


COLOUR = (200, 100, 40)
# mode, ending, the colour stored, what it is in RGB
MODES = {
    "rgb": (Image.new("RGB", (9, 7), COLOUR), "png", COLOUR),
    "grey": (Image.new("L", (9, 7), 90), "png", (90, 90, 90)),
    "grey with alpha": (Image.new("LA", (9, 7), (90, 10)), "png", (90, 90, 90)),
    "transparent": (Image.new("RGBA", (9, 7), (*COLOUR, 128)), "webp", COLOUR),
    "palette": (Image.new("RGB", (9, 7), COLOUR).convert("P", palette=Image.Palette.ADAPTIVE), "gif", COLOUR),
    "cmyk": (Image.new("RGB", (9, 7), COLOUR).convert("CMYK"), "jpg", COLOUR),
    "16 bit": (Image.fromarray(np.full((7, 9), 90 * 256 + 17, dtype=np.uint16)), "png", (90, 90, 90)),
    "16 bit tiff": (Image.fromarray(np.full((7, 9), 200 * 256, dtype=np.uint16)), "tiff", (200, 200, 200)),
    "lab": (Image.new("LAB", (9, 7), (128, 128, 128)), "tiff", (119, 119, 119)),
    "1 bit": (Image.new("1", (9, 7), 1), "png", (255, 255, 255)),
    "1 bit black": (Image.new("1", (9, 7), 0), "tiff", (0, 0, 0)),
}


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("name", MODES)
def test_every_colour_mode(tmp_path, name, augment):
    image, ending, expected = MODES[name]
    image.save(tmp_path / f"a.{ending}", **({"quality": 100} if ending in ("jpg", "webp") else {}))
    for channels in (1, 3):
        dataset = examples_of(tmp_path, image_data(channels, color_jitter=0), augment=augment)
        pixels = (dataset[3, 0]["pixel_values"] * 0.5 + 0.5) * 255
        assert pixels.shape == (channels, 24, 24) and pixels.dtype == torch.float32
        wanted = expected if channels == 3 else (0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2],)
        np.testing.assert_allclose(pixels.mean((1, 2)), wanted, atol=4)
        assert pixels.std((1, 2)).max() < 1


TURN = Image.Transpose
TURNS = {
    1: None,
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_90,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_270,
}


@pytest.mark.parametrize("tag", TURNS)
def test_an_image_taken_with_a_turned_camera_is_upright(tmp_path, tag):
    upright = picture()
    (tmp_path / "turned").mkdir(), (tmp_path / "upright").mkdir()
    exif = Image.Exif()
    exif[0x0112] = tag
    turned = upright if TURNS[tag] is None else upright.transpose(TURNS[tag])
    turned.save(tmp_path / "turned" / "a.png", exif=exif)
    upright.save(tmp_path / "upright" / "a.png")
    for augment in (False, True):
        seen, wanted = (
            examples_of(tmp_path / folder, image_data(), augment=augment)[2, 0]["pixel_values"]
            for folder in ("turned", "upright")
        )
        assert torch.equal(seen, wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_augmentation_an_image_is_what_the_saved_processor_makes_of_it(tmp_path, channels):
    source = picture() if channels == 3 else picture().convert("L")
    source.save(tmp_path / "a.png")
    modality = image_data(channels, image_mean=[0.4, 0.5, 0.6][:channels], image_std=[0.2, 0.3, 0.4][:channels])
    modality.processor.save_pretrained(tmp_path / "saved")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    expected = processor(source, return_tensors="pt")["pixel_values"][0]
    seen = examples_of(tmp_path, modality, augment=False)[0]["pixel_values"]
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-5)


def test_augmentation_follows_from_the_key(tmp_path):
    for i in range(2):
        picture(60 + i).save(tmp_path / f"{i}.png")
    dataset = examples_of(tmp_path, image_data())
    assert torch.equal(dataset[3, 1]["pixel_values"], dataset[3, 1]["pixel_values"])
    views = [dataset[epoch, 1]["pixel_values"] for epoch in range(8)]
    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i])


def test_the_random_crop_is_that_part_of_the_image_resized():
    width, height = 90, 70
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    file = io.BytesIO()
    picture(width, height).save(file, format="PNG")
    crop = random_resized_crop(open_image(file.getvalue(), "x"), (24, 32), [0.1, 0.5], 3, "x", rng)
    left, top, wide, high = choose_crop(width, height, [0.1, 0.5], same)
    assert crop.size == (32, 24)
    expected = (
        picture(width, height).crop((left, top, left + wide, top + high)).resize((32, 24), Image.Resampling.BICUBIC)
    )
    inner = (slice(2, -2), slice(2, -2))  # at its border the resized crop also sees its neighbours
    assert np.abs(np.asarray(crop, float) - np.asarray(expected, float))[inner].max() <= 2


def test_crops_have_the_area_and_aspect_asked_for_and_lie_inside():
    rng = np.random.default_rng(0)
    boxes = np.array([choose_crop(640, 480, [0.2, 0.9], rng) for _ in range(2000)])
    left, top, wide, high = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and (left + wide).max() <= 640 and (top + high).max() <= 480
    area, aspect = wide * high / (640 * 480), wide / high
    assert 0.19 < area.min() < 0.25 and 0.8 < area.max() < 0.91
    assert 0.74 < aspect.min() < 0.78 and 1.28 < aspect.max() < 1.34
    small = np.array([choose_crop(640, 640, [0.05, 0.2], rng)[2:] for _ in range(2000)])
    assert np.log(small[:, 0] / small[:, 1]).mean() == pytest.approx(0, abs=0.02)  # none was refused: symmetric
    assert choose_crop(1000, 10, [0.9, 1.0], rng) == (493, 0, 13, 10)  # nothing fits: the widest central piece


def test_a_large_jpeg_is_decoded_small_but_looks_the_same():
    file = io.BytesIO()
    picture(1000, 800).save(file, format="JPEG", quality=95)
    crops = []
    for ending in ("JPEG", "PNG"):
        copy = io.BytesIO()
        Image.open(file).save(copy, format=ending, **({"quality": "keep"} if ending == "JPEG" else {}))
        opened = open_image(copy.getvalue(), "x")
        crops.append(
            np.asarray(random_resized_crop(opened, (32, 32), [0.5, 1.0], 3, "x", np.random.default_rng(1)), float)
        )
        if ending == "JPEG":
            assert opened.size[0] <= 250  # a quarter of the pixels across were decoded
    assert np.abs(crops[0] - crops[1]).mean() < 1.5


def test_flip_and_shift(tmp_path):
    picture(24, 24).save(tmp_path / "a.png")
    plain = examples_of(tmp_path, image_data(crop="none", flip=0, color_jitter=0))[0, 0]["pixel_values"]
    mirrored = examples_of(tmp_path, image_data(crop="none", flip=1, color_jitter=0))[0, 0]["pixel_values"]
    assert torch.equal(mirrored, plain.flip(-1))
    moved = np.asarray(shift(picture(11, 7), 3, -2))
    for row in range(7):
        for column in range(11):
            source = picture(11, 7).getpixel((min(max(column - 3, 0), 10), min(max(row + 2, 0), 6)))
            assert tuple(moved[row, column]) == source
    dataset = examples_of(tmp_path, image_data(crop="shift", shift_pixels=1, flip=0, color_jitter=0))
    assert len({dataset[epoch, 0]["pixel_values"].numpy().tobytes() for epoch in range(120)}) == 9


def test_colour_jitter_changes_brightness_and_spread_around_the_original():
    rng, source = np.random.default_rng(0), np.asarray(picture(), float)
    jittered = [np.asarray(color_jitter(picture(), 0.4, rng), float) for _ in range(300)]
    brightness = np.array([image.mean() for image in jittered]) / source.mean()
    assert 0.55 < brightness.min() < 0.7 and 1.2 < brightness.max() < 1.45
    assert brightness.mean() == pytest.approx(1, abs=0.05)
    assert color_jitter(picture().convert("L"), 0.4, rng).mode == "L"


def write_bad(folder: Path) -> dict[str, str]:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format="JPEG")
    (folder / "cut.jpg").write_bytes(file.getvalue()[:1500])
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    (folder / "cut.png").write_bytes(file.getvalue()[:3000])
    (folder / "words.jpg").write_text("not an image at all")
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(np.full((7, 9), 0.5, dtype=np.float32)).save(folder / "float.tiff")
    Image.new("L", (200, 200)).save(folder / "bomb.png")
    return {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "words.jpg": "wrong type",
        "empty.png": "empty",
        "float.tiff": "pixel format",
        "bomb.png": "too large",
    }


@pytest.mark.parametrize("augment", [False, True])
def test_bad_images_are_named_or_left_out_and_counted(tmp_path, monkeypatch, caplog, augment):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    problems = write_bad(tmp_path)
    picture().save(tmp_path / "good.png")
    names = sorted([*problems, "good.png"])
    strict = examples_of(tmp_path, image_data(), augment=augment)
    for name, problem in problems.items():
        with pytest.raises(ValueError, match=name) as error:
            strict[0, names.index(name)]
        assert error.value.problem == problem and "data.max_bad_share" in str(error.value)
    lenient = examples_of(tmp_path, image_data(), augment=augment, max_bad_share=1.0)
    with caplog.at_level(logging.WARNING):
        seen = [lenient[0, i] for i in range(7) for _ in range(2)]
    assert [example["index"] for example in seen[::2]] == list(range(7))
    kinds = list(problems.values())
    assert lenient.ledger.counts() == {kind: kinds.count(kind) for kind in set(kinds)}
    for name in problems:
        assert sum(name in record.getMessage() for record in caplog.records) == 1, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_area": [0.5, 0.1]}, r"data.crop_area = \[0.5, 0.1\]"),
        ({"crop": "centre"}, r"data.crop = 'centre'"),
        ({"crop": "shift"}, r"data.shift_pixels = 0"),
        ({"shift_pixels": 2}, r"data.shift_pixels = 2"),
        ({"flip": 2}, r"data.flip = 2.0"),
        ({"image_std": [1, 0, 1]}, r"data.image_std = \[1.0, 0.0, 1.0\]"),
        ({"image_mean": [0.5]}, r"data.image_mean = \[0.5\].*num_channels = 3"),
    ],
)
def test_impossible_numbers_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        image_data(**fields)
