"""From a recipe to batches that the models accept: the same with any number of workers, and again after a restart."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    Data2VecAudioConfig,
    Data2VecTextConfig,
    Data2VecVisionConfig,
    Wav2Vec2FeatureExtractor,
)

from data2vec.modeling import (
    Data2VecAudioForPreTraining,
    Data2VecTextForPreTraining,
    Data2VecVisionForPreTraining,
    ObjectiveConfig,
)
from data2vec.pretraining.modalities.build import (
    AudioDataArguments,
    ImageDataArguments,
    PretrainingData,
    TextDataArguments,
    build_data,
    modality_of,
)
from data2vec.tests.reference import SAMPLES


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
AUDIO = Data2VecAudioConfig(**TINY, conv_dim=(8,) * 7, num_conv_pos_embedding_groups=2)
VISION = Data2VecVisionConfig(**TINY, image_size=16, patch_size=4)
TEXT = Data2VecTextConfig(**TINY, vocab_size=300, pad_token_id=1, max_position_embeddings=64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """23 clips, images and documents of three classes in train and test."""
    root = tmp_path_factory.mktemp("sources")
    for i in range(23):
        rng = np.random.default_rng(i)
        place = f"{'test' if i % 4 == 0 else 'train'}/{'xyz'[i % 3]}"
        for kind in ("audio", "image"):
            (root / kind / place).mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"audio/{place}/{i:02}.flac", rng.standard_normal(9000 + 500 * i) / 10, 16000)
        pixels = rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"image/{place}/{i:02}.png")
    words = [f"word{n}" for n in range(60)]
    text = "\n".join(" ".join(np.random.default_rng(i).choice(words, 20)) for i in range(120))
    (root / "text.txt").write_text(text)
    return root


# modality -> the encoder, the model, the data fields, the masking
CASES = {
    "audio": (
        AUDIO,
        Data2VecAudioForPreTraining,
        lambda root: AudioDataArguments(
            sources=[{"path": str(root / "audio")}], min_seconds=0, max_seconds=0.9, batch_seconds=4
        ),
        {"method": "span", "prob": 0.5, "length": 3},
    ),
    "image": (
        VISION,
        Data2VecVisionForPreTraining,
        lambda root: ImageDataArguments(sources=[{"path": str(root / "image")}]),
        {"method": "beit_block", "ratio": 0.5, "min_patches": 2},
    ),
    "text": (
        TEXT,
        Data2VecTextForPreTraining,
        lambda root: TextDataArguments(
            sources=[{"path": str(root / "text.txt")}], tokenizer="builtin:byte-bpe", block_size=41
        ),
        {"method": "token", "prob": 0.3, "random_prob": 0.2},
    ),
}
every_modality = pytest.mark.parametrize("modality", CASES)


def objective_of(modality: str) -> ObjectiveConfig:
    return ObjectiveConfig.from_dict({"masking": CASES[modality][3]})


def build(modality: str, root: Path, **changes) -> PretrainingData:
    config, _, arguments, _ = CASES[modality]
    args = arguments(root)
    options = ("num_processes", "gradient_accumulation_steps", "batch_size")
    how = {"batch_size": 5} | {name: changes.pop(name) for name in options if name in changes}
    for name, value in changes.items():
        setattr(args, name, value)
    args.__post_init__()  # what a recipe with these fields would have gone through
    return build_data(args, config=config, objective=objective_of(modality), seed=5, **how)


def batches_of(data: PretrainingData, epoch: int = 0, workers: int = 0) -> list[dict]:
    data.batch_sampler.set_epoch(epoch)
    return list(DataLoader(data.train_dataset, **data.loader_arguments(), num_workers=workers))


def same(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(*map(torch.as_tensor, (a[name], b[name]))) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@every_modality
def test_the_number_of_workers_changes_nothing(folders, modality):
    data = build(modality, folders)
    alone, with_two = batches_of(data, epoch=3), batches_of(data, epoch=3, workers=2)
    assert len(alone) > 3 and same(alone, with_two)


@every_modality
def test_a_restarted_run_sees_the_same_and_every_epoch_something_else(folders, modality):
    first, again = batches_of(build(modality, folders), epoch=2), batches_of(build(modality, folders), epoch=2)
    assert same(first, again)
    other = batches_of(build(modality, folders), epoch=1)
    masks = lambda batches: {row.numpy().tobytes() for batch in batches for row in batch["masked"]}  # noqa: E731
    assert len(masks(first) & masks(other)) < 0.2 * len(masks(first))


@every_modality
def test_the_model_accepts_a_batch_as_it_comes(folders, modality):
    config, model_class, _, masking = CASES[modality]
    config = type(config).from_dict(config.to_dict() | {"objective": {"masking": masking, "top_k_layers": 2}})
    model = model_class(config).train()
    data = build(modality, folders)
    for batch in batches_of(data)[:3]:
        output = model(**batch)
        assert torch.isfinite(output.loss) and output.loss > 0
        assert output.predictions.shape[0] == batch["masked"].sum() > 0


@every_modality
def test_ranks_and_accumulated_batches_come_out_even(folders, modality):
    data = build(modality, folders, num_processes=2, gradient_accumulation_steps=3)
    assert len(data.batch_sampler) % 6 == 0
    seen = [index for batch in data.batch_sampler for _, index in batch]
    assert sorted(seen) == list(range(len(data.train_dataset)))


def test_a_batch_with_a_padded_row_says_so(folders):
    batches = batches_of(build("audio", folders))
    assert any("attention_mask" in batch for batch in batches)
    for batch in batches:
        assert batch["input_values"].numel() <= 4 * 16000
        if "attention_mask" in batch:
            assert batch["attention_mask"].min() == 0
    cropped = batches_of(build("audio", folders, crop_to_shortest=True))
    assert not any("attention_mask" in batch for batch in cropped)


def test_evaluation_has_fixed_masks_and_no_augmentation(folders):
    source = [{"path": str(folders / "image"), "split": "test"}]
    data = build("image", folders, eval_sources=source)
    epochs = [
        list(DataLoader(data.eval_dataset, batch_sampler=data.eval_batch_sampler, collate_fn=data.collator))
        for _ in range(2)
    ]
    assert same(*epochs) and sum(len(batch["masked"]) for batch in epochs[0]) == 6
    path = data.eval_dataset.sources[0][0]["image"]
    expected = data.processor(Image.open(path), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(data.eval_dataset[0]["pixel_values"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_a_probe_has_every_labelled_example_without_masks(folders, modality):
    probe = {"path": str(folders / modality)}
    data = build(modality, folders, probe=probe, **({"min_seconds": 0.7} if modality == "audio" else {}))
    assert (len(data.probe_train), len(data.probe_test)) == (17, 6)  # no length filter applies
    assert data.probe_validation is None
    assert data.label_names == ("x", "y", "z")
    for dataset in (data.probe_train, data.probe_test):
        loader = DataLoader(dataset, batch_size=4, collate_fn=data.probe_collator)
        batches = list(loader)
        assert all("masked" not in batch and batch["labels"].dtype == torch.int64 for batch in batches)
        labels = torch.cat([batch["labels"] for batch in batches])
        paths = [row[modality] for row in dataset.sources[0]]
        assert labels.tolist() == ["xyz".index(Path(path).parent.name) for path in paths]
        assert same(batches, list(loader))


def test_labels_of_a_dataset_are_its_own_classes():
    args = ImageDataArguments(
        sources=[{"path": "builtin:digits"}], probe={"path": "builtin:digits", "validation_split": "test"}
    )
    config = Data2VecVisionConfig(**TINY, image_size=8, patch_size=2, num_channels=1)
    objective = ObjectiveConfig.from_dict({"masking": {"method": "beit_block", "min_patches": 2}})
    data = build_data(args, config=config, objective=objective, seed=0, batch_size=64)
    assert data.label_names == tuple("0123456789") and len(data.probe_test) == 597
    assert data.probe_test[5]["pixel_values"].shape == (1, 8, 8) and len(data.probe_validation) == 597


@pytest.mark.parametrize(
    ("modality", "opened_by"),
    [("audio", AutoFeatureExtractor), ("image", AutoImageProcessor), ("text", AutoTokenizer)],
)
def test_the_processor_is_saved_so_that_the_auto_class_opens_it(folders, tmp_path, modality, opened_by):
    data = build(modality, folders)
    data.processor.save_pretrained(tmp_path)
    CASES[modality][0].save_pretrained(tmp_path)
    assert (
        opened_by.from_pretrained(tmp_path).to_dict() == data.processor.to_dict()
        if modality != "text"
        else (opened_by.from_pretrained(tmp_path).get_vocab() == data.processor.get_vocab())
    )


def test_weights_of_sources(folders):
    sources = [
        {"path": str(folders / "image"), "split": "train", "weight": 1},
        {"path": str(folders / "image"), "split": "test", "weight": 3},
    ]
    data = build("image", folders, sources=sources)
    from_test = [index >= 17 for batch in data.batch_sampler for _, index in batch]
    assert len(from_test) == pytest.approx(23, abs=1) and sum(from_test) == pytest.approx(0.75 * 23, abs=1)
    masks = {row.numpy().tobytes() for batch in batches_of(data) for row in batch["masked"]}
    assert len(masks) > 20  # an image that comes three times is masked in three ways


def test_bad_files_are_counted_over_all_workers(folders, tmp_path, caplog):
    for i in range(9):
        if i % 4 == 1:
            (tmp_path / f"{i}.png").write_bytes(b"no image")
        else:
            Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / f"{i}.png")
    source = [{"path": str(tmp_path)}]
    lenient = build("image", folders, sources=source, max_bad_share=1.0, batch_size=2)
    with caplog.at_level(logging.WARNING):
        two, none = batches_of(lenient, workers=2), batches_of(lenient)
    assert same(two, none)
    assert lenient.train_dataset.ledger.counts() == {"wrong type": 2}
    with pytest.raises(ValueError, match=r"(1|5).png.*data.max_bad_share"):
        batches_of(build("image", folders, sources=source, max_bad_share=0, batch_size=2), workers=2)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_recipe_shrinks_or_drops_is_said_or_must_be_asked_for(tmp_path, caplog, streaming):
    colours = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    pictures = {"colour": Image.fromarray(colours), "grey": Image.fromarray(colours).convert("L").convert("RGB")}
    for name, picture in pictures.items():
        (tmp_path / name).mkdir()
        for i in range(3):
            picture.save(tmp_path / name / f"{i}.jpg")

    def build_images(name: str, size: int, channels: int, **fields):
        caplog.clear()
        config = Data2VecVisionConfig(**TINY, image_size=size, patch_size=4, num_channels=channels)
        args = ImageDataArguments(sources=[{"path": str(tmp_path / name)}], streaming=streaming, **fields)
        build_data(args, config=config, objective=objective_of("image"), seed=0, batch_size=2)
        return caplog.text

    assert "3 are shrunk to 16 x 16, one from 32 x 32" in build_images("colour", 16, 3)
    assert build_images("colour", 32, 3) == ""
    with pytest.raises(ValueError, match=r"colour'.*3 of 3 images are in colour.*= 1.*data\.grayscale = true"):
        build_images("colour", 16, 1)
    said = build_images("colour", 16, 1, grayscale=True)
    assert "3 lose their colour; 3 are shrunk to 16 x 16" in said
    assert build_images("grey", 32, 1) == ""
    with pytest.raises(ValueError, match=r"3 of 3 images are smaller than model.image_size = 48 x 48, one is 32 x 32"):
        build_images("grey", 48, 3)
    assert "3 are enlarged to 48 x 48, one from 32 x 32" in build_images("grey", 48, 3, upscale=True)

    (tmp_path / "clips").mkdir()
    for i, (rate, channels) in enumerate([(16_000, 1), (44_100, 2), (16_000, 2)]):
        wave = np.random.default_rng(i).standard_normal(((i + 1) * rate, channels)) / 9
        soundfile.write(tmp_path / "clips" / f"{i}.wav", wave, rate)
    args = AudioDataArguments(
        sources=[{"path": str(tmp_path / "clips")}], streaming=streaming, min_seconds=0, max_seconds=2.5
    )
    build_data(args, config=AUDIO, objective=objective_of("audio"), seed=0, batch_size=2)
    lost = "1 are resampled to 16000 Hz, 2 are mixed to one channel, 1 are cropped to data.max_seconds = 2.5"
    assert f"of 3 clips looked at, {lost}" in caplog.text


def test_what_does_not_fit_together_is_refused():
    objective = ObjectiveConfig.from_dict({"masking": {"method": "span"}})
    args = ImageDataArguments(sources=[{"path": "x"}])
    with pytest.raises(ValueError, match="ImageDataArguments.*data2vec-audio.*AudioDataArguments"):
        build_data(args, config=AUDIO, objective=objective, seed=0)
    slow = Wav2Vec2FeatureExtractor(sampling_rate=8000)
    speech = AudioDataArguments(sources=[{"path": "x"}], batch_seconds=20)
    with pytest.raises(ValueError, match="sampling_rate = 8000"):
        build_data(speech, config=AUDIO, objective=objective, seed=0, processor=slow)
    assert modality_of(AUDIO).arguments_class is AudioDataArguments


@pytest.mark.parametrize(
    ("name", "modality"),
    [("librispeech_small", "audio"), ("fashion_mnist_small", "image"), ("shakespeare", "text")],
)
def test_real_data(folders, name, modality):
    split = "test" if modality == "image" else "validation"
    changes = {"sources": [{"path": str(SAMPLES / name), "split": split}]}
    if modality == "audio":
        changes |= {"max_seconds": 8, "batch_seconds": 40, "min_seconds": 2}
    data = build(modality, folders, **changes)
    batches = []
    for batch in DataLoader(data.train_dataset, **data.loader_arguments()):
        batches.append(batch)
        if len(batches) == 5:
            break
    assert all(batch["masked"].any(-1).all() for batch in batches)
    values = next(iter(batches[0].values())).float()
    assert values.std() > 0 and torch.isfinite(values).all()
