"""Sources: folders, files, patterns, saved datasets and datasets of the Hub's layout give one column of raw data."""

import json
import os
from dataclasses import fields, replace

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from data2vec.pretraining.data.arguments import DataArguments, Source
from data2vec.pretraining.data.sources import MediaKind, load_source
from data2vec.pretraining.modalities.audio import AudioDataArguments
from data2vec.pretraining.modalities.image import IMAGE, ImageDataArguments
from data2vec.pretraining.modalities.sound_files import AUDIO, read_crop
from data2vec.pretraining.modalities.text_rows import TEXT
from data2vec.tests.reference import SAMPLES


def load(path: object, kind=TEXT, split=None, column=None, **how):
    return load_source(Source(path=str(path), split=split, column=column), kind, **how)


def test_a_folder_of_files_is_listed_deeply_in_order_and_without_what_is_none(tmp_path):
    for name in ("b/2.WAV", "b/a/1.flac", "a.ogg", "b/.hidden.wav", ".cache/x.wav", "b/notes.txt", "b/cover.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.symlink(tmp_path / "b", tmp_path / "b" / "a" / "loop")
    (tmp_path.parent / "elsewhere").mkdir(exist_ok=True)
    (tmp_path.parent / "elsewhere" / "3.mp3").write_bytes(b"x")
    os.symlink(tmp_path.parent / "elsewhere", tmp_path / "b" / "link")
    rows = load(tmp_path, AUDIO)
    assert [os.path.relpath(path, tmp_path) for path in rows["audio"]] == [
        "a.ogg",
        "b/2.WAV",
        "b/a/1.flac",
        "b/link/3.mp3",
    ]
    assert load(tmp_path, AUDIO, split="b")["audio"][:] == rows["audio"][1:]
    assert list(load(tmp_path, AUDIO, streaming=True)) == [{"audio": path} for path in rows["audio"]]
    assert len(load(tmp_path, IMAGE)) == 1
    with pytest.raises(ValueError, match="sub-folder 'c'"):
        load(tmp_path, AUDIO, split="c")


def test_what_is_not_read_of_a_folder_is_said_and_a_folder_of_others_refused(tmp_path, caplog):
    for name in ("m4a/a.m4a", "m4a/b.M4A", "m4a/cover.jpg", "mixed/a.m4a", "mixed/b.wav", "pictures/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "none").mkdir()
    assert len(load(tmp_path / "mixed", AUDIO)) == 1
    assert "1 files are read, others are not: .m4a (1)" in caplog.text
    for name, kind, found in (
        ("m4a", AUDIO, r"\.m4a \(2\), \.jpg \(1\): convert .*\.wav, \.flac"),
        ("pictures", AUDIO, r"\.png \(1\)"),
        ("pictures", TEXT, r"\.png \(1\): convert them to one of \.txt, \.jsonl"),
        ("mixed", IMAGE, r"\.m4a \(1\), \.wav \(1\)"),
        ("none", AUDIO, "nothing at all"),
    ):
        with pytest.raises(ValueError, match=f"Nothing in it can be read as {kind.column}, its files end in {found}"):
            load(tmp_path / name, kind)
    with pytest.raises(ValueError, match=r"Files ending in \.m4a are not read as audio: convert them.*\.wav"):
        load(tmp_path / "m4a" / "a.m4a", AUDIO)
    (tmp_path / "x.txt").write_text("words")
    with pytest.raises(ValueError, match=r"Files ending in \.txt are not read as audio"):
        load(tmp_path / "x.txt", AUDIO)
    with pytest.raises(ValueError, match=r"clearly the audio: set column to .* image \(images\), label"):
        load("builtin:digits", AUDIO)


def test_links_to_themselves_and_names_that_are_no_utf8_are_listed_and_pipes_are_not(tmp_path):
    os.symlink("loop.wav", tmp_path / "loop.wav")
    os.symlink("folder", tmp_path / "folder")
    (tmp_path / "good.wav").write_bytes(b"x")
    with open(os.fsencode(tmp_path) + b"/\xff\xe9.wav", "wb") as file:
        file.write(b"x")
    os.mkfifo(tmp_path / "pipe.wav")
    names = [os.path.relpath(name, tmp_path) for name in load(tmp_path, AUDIO)["audio"]]
    assert names == ["\\xff\\xe9.wav", "good.wav", "loop.wav"]


@pytest.mark.parametrize("streaming", [False, True])
def test_decoded_arrays_are_read_as_files_are(tmp_path, streaming):
    rng = np.random.default_rng(0)
    waves = [0.1 * rng.standard_normal(4000 + 50 * i).astype(np.float32) for i in range(3)]
    stereo = [np.stack([wave, wave]) for wave in waves]
    whole = [np.round(wave * 32768).astype(np.int64) for wave in waves]
    rows = {
        "struct": [{"audio": {"array": wave, "sampling_rate": 16000, "path": "/else/where.wav"}} for wave in waves],
        "list": [{"audio": wave, "sampling_rate": 16000} for wave in waves],
        "stereo": [{"audio": {"array": wave, "sampling_rate": 16000}} for wave in stereo],
        "int16": [{"audio": wave, "sampling_rate": 16000} for wave in whole],
    }
    for name, table in rows.items():
        datasets.Dataset.from_list(table).save_to_disk(tmp_path / name)
        for row, wave in zip(load(tmp_path / name, AUDIO, streaming=streaming), waves, strict=True):
            read = read_crop(row["audio"], name, 16000, None)
            np.testing.assert_allclose(read, wave, atol=2e-5 if name == "int16" else 1e-7)
    datasets.Dataset.from_list([{"audio": wave} for wave in waves]).save_to_disk(tmp_path / "bare")
    with pytest.raises(ValueError, match="'audio' holds arrays.*add a column sampling_rate.*datasets.Audio"):
        load(tmp_path / "bare", AUDIO, streaming=streaming)
    datasets.Dataset.from_list([{"image": [[0, 255]]}]).save_to_disk(tmp_path / "pixels")
    with pytest.raises(ValueError, match="'image' holds arrays.*: cast it to datasets.Image"):
        load(tmp_path / "pixels", IMAGE, streaming=streaming)


TALKING = replace(IMAGE, beside=(AUDIO,))  # a picture, and what is heard with it
CLOUDS = MediaKind(column="points", feature=None, extensions=(".ply", ".txt"), known_columns=("points",))


def test_files_that_are_read_together_have_the_same_name(tmp_path):
    for name in ("a/1.png", "a/1.wav", "b/2.png", "b/2.WAV", "b/2.txt", "only.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    rows = load(tmp_path, TALKING, label_column="label")
    assert rows[:] == {
        "image": [str(tmp_path / name) for name in ("a/1.png", "b/2.png")],
        "audio": [str(tmp_path / name) for name in ("a/1.wav", "b/2.WAV")],
        "label": ["a", "b"],
    }
    assert load(f"{tmp_path}/b/*.png", TALKING)[:] == load(tmp_path / "b", TALKING)[:]
    (tmp_path / "b" / "3.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"1 of 3 files of image, first '\S*b/3.png', have no audio .* in .wav or"):
        load(tmp_path, TALKING)


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_that_are_read_together(tmp_path, streaming):
    for name in ("a.png", "a.wav"):
        (tmp_path / name).write_bytes(b"x")
    row = {"image": "a.png", "sound": "a.wav", "audio": "none.wav", "speaker": "Ada"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    source = Source(path=str(tmp_path / "t.jsonl"), columns={"audio": "sound"})
    expected = {"image": str(tmp_path / "a.png"), "audio": str(tmp_path / "a.wav")}
    assert list(load_source(source, TALKING, streaming=streaming)) == [expected]
    (tmp_path / "t.jsonl").write_text(json.dumps(row | {"sound": "../../a.wav"}))  # what is beside is held here, too
    with pytest.raises(ValueError, match=r"names the file '../../a.wav'"):
        list(load_source(source, TALKING, streaming=streaming))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (None, r"has no column, .* clearly the audio \(it is read beside the image\): set columns: {audio: ...} to"),
        (
            {"audio": "noise"},
            r"has no column 'noise' \(it is read beside the image\).* of its columns, image, other",
        ),
        ({"audio": "image"}, "only one column, 'image', for two things"),
        ({"video": "other"}, "columns = {'video': 'other'} names 'video', but what .* the image is: audio"),
    ],
)
def test_a_column_that_is_missing_is_named(tmp_path, columns, said):
    datasets.Dataset.from_dict({"image": ["a.png"], "other": ["a.wav"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=said):
        load_source(Source(path=str(tmp_path / "t.parquet"), columns=columns), TALKING)


def test_a_kind_with_endings_of_its_own_needs_no_other_entry(tmp_path):
    """Also where tables have one of them, and where no feature of `datasets` marks it."""
    for name in ("a.ply", "b.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert load(tmp_path, CLOUDS)["points"][:] == [str(tmp_path / "a.ply"), str(tmp_path / "b.txt")]
    assert load(tmp_path / "b.txt", CLOUDS)["points"][:] == [str(tmp_path / "b.txt")]
    (tmp_path / "t.csv").write_text("points\na.ply\n")
    assert load(tmp_path / "t.csv", CLOUDS)["points"][:] == [str(tmp_path / "a.ply")]
    (tmp_path / "t.csv").write_text("points\n/etc/passwd\n")
    with pytest.raises(ValueError, match="outside of"):
        load(tmp_path / "t.csv", CLOUDS)
    datasets.Dataset.from_dict({"points": [[[0.0, 1.0, 2.0]]]}).to_parquet(tmp_path / "t.parquet")
    assert load(tmp_path / "t.parquet", CLOUDS)[0] == {"points": [[0.0, 1.0, 2.0]]}


def test_classes_of_a_folder_of_files_are_its_folders(tmp_path):
    for name in ("train/cat/1.png", "train/dog/2.png", "test/dog/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    assert load(tmp_path, IMAGE, split="train", label_column="label")["label"][:] == ["cat", "dog"]


def test_single_files_and_patterns(tmp_path):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(10), 16000)
        (tmp_path / f"{i}.txt").write_text(f"text {i}\n")
    assert len(load(tmp_path / "1.wav", AUDIO)) == 1
    assert load(tmp_path / "[02].txt")["text"][:] == ["text 0", "text 2"]
    assert len(load(tmp_path / "*.wav", AUDIO)) == 3
    with pytest.raises(ValueError, match="one format"):
        load(tmp_path / "0.*")


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [("line", ["a", "b", "", "c"]), ("paragraph", ["a\nb", "c"]), ("document", ["a\nb\n\nc\n"])],
)
def test_a_document_of_a_text_file_is_a_line_a_paragraph_or_the_file(tmp_path, sample_by, expected):
    (tmp_path / "x.txt").write_text("a\nb\n\nc\n")
    assert [text.strip("\n") for text in load(tmp_path / "x.txt", sample_by=sample_by)["text"]] == [
        text.strip("\n") for text in expected
    ]
    assert len(load(tmp_path, sample_by=sample_by)) == len(expected)  # the folder
    assert len(list(load(tmp_path / "x.txt", sample_by=sample_by, streaming=True))) == len(expected)


@pytest.mark.parametrize("streaming", [False, True])
def test_tables_and_saved_datasets(tmp_path, streaming):
    rows = {"body": ["one", "two", "three"], "n": [1, 2, 3]}
    table = datasets.Dataset.from_dict(rows)
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in table))
    table.to_parquet(tmp_path / "x.parquet")
    table.to_csv(tmp_path / "x.csv")
    table.save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"train": table, "dev": table.select([1])}).save_to_disk(tmp_path / "several")
    for name in ("x.jsonl", "x.parquet", "x.csv", "single", "several"):
        loaded = load(tmp_path / name, column="body", streaming=streaming)
        assert list(loaded) == [{"text": word} for word in rows["body"]], name
    assert list(load(tmp_path / "several", split="dev", column="body", streaming=streaming)) == [{"text": "two"}]
    for path, how, message in (
        ("several", {"split": "test"}, "no split 'test'.*train, dev"),
        ("single", {"split": "train"}, "without splits"),
        ("x.csv", {}, "text.*body, n"),
        ("x.csv", {"column": "bodi"}, "no column 'bodi'.*body, n"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / path, streaming=streaming, **how)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere.txt", "nowhere/*.txt", "no-such/dataset"])
def test_a_source_that_is_not_there_is_named(path):
    with pytest.raises(
        ValueError, match="data source .*nowhere.* cannot be opened|no-such/dataset.* cannot be opened"
    ):
        load(path)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_in_the_layout_of_the_hub(streaming):
    clip = next(iter(load(SAMPLES / "librispeech_small", AUDIO, split="validation", streaming=streaming)))
    assert set(clip) == {"audio"} and clip["audio"]["bytes"][:4] == b"fLaC"
    image = next(
        iter(load(SAMPLES / "fashion_mnist_small", IMAGE, split="test", label_column="label", streaming=streaming))
    )
    assert set(image) == {"image", "label"} and image["image"]["bytes"][:4] == b"\x89PNG"
    speech = next(iter(load(SAMPLES / "shakespeare", split="validation", streaming=streaming)))
    assert set(speech) == {"text"} and len(speech["text"]) > 40
    with pytest.raises(ValueError, match="librispeech_small.*no_such_split"):
        load(SAMPLES / "librispeech_small", AUDIO, split="no_such_split", streaming=streaming)
    with pytest.raises(ValueError, match="librispeech_small.*no column 'digit'.*speaker_id"):
        load(SAMPLES / "librispeech_small", AUDIO, split="validation", streaming=streaming, label_column="digit")


# --- Arguments ------------------------------------------------------------------------------------------------------


def test_a_recipes_dicts_become_arguments():
    args = AudioDataArguments.from_dict(
        {
            "sources": [{"path": "./wavs"}, {"path": "some/speech", "name": "clean", "split": "train", "weight": 3}],
            "probe": {"path": "some/labelled", "test_split": "validation"},
            "batch_seconds": 225,
        }
    )
    assert args.sources[1] == Source(path="some/speech", name="clean", split="train", weight=3.0)
    assert args.shares() == [0.25, 0.75]  # a source without a weight counts 1
    assert args.probe.source("validation") == Source(path="some/labelled", split="validation")
    assert args.batch_cost == 225 * 16000
    assert AudioDataArguments(sources=[{"path": "a"}, {"path": "b"}], batch_seconds=20).shares() is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": [{"path": "a"}], "streeming": True}, "data.streeming.*did you mean 'streaming'"),
        ({"sources": [{"path": "a", "colum": "x"}]}, "data.sources.colum.*did you mean 'column'"),
        ({"sources": [{"split": "a"}]}, "data.sources.*'path'"),
        ({"sources": []}, r"data.sources = \[\]"),
        ({"sources": {"path": "a"}}, "data.sources = .*give a list"),
        ({"sources": [{"path": "a", "weight": 0}]}, "data.sources.weight = 0.0"),
        ({"sources": [{"path": "a"}], "num_proc": 0}, "data.num_proc = 0"),
        ({"sources": [{"path": "a"}], "num_proc": True}, "data.num_proc = True"),
        ({"sources": [{"path": "a"}], "num_proc": 2.5}, "data.num_proc = 2.5"),
        (
            {"sources": [{"path": "a"}], "probe": {"path": "b", "test_split": "train"}},
            "data.probe.test_split = 'train'",
        ),
        (
            {"sources": [{"path": "a"}], "probe": {"path": "b", "validation_split": "train"}},
            "data.probe.validation_split = 'train'",
        ),
        ({"sources": [{"path": "a"}, {"path": "b"}], "streaming": True}, "streaming.*weight: 1.0"),
        ({"sources": [{"path": "a"}], "shuffle_buffer": 0}, "data.shuffle_buffer = 0"),
        ({"sources": [{"path": "a"}], "num_proc": 0}, "data.num_proc = 0"),
    ],
)
def test_misspelt_fields_and_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataArguments.from_dict(values)


def test_every_field_explains_itself():
    for arguments in (AudioDataArguments, ImageDataArguments, Source):
        assert all(field.metadata["help"] for field in fields(arguments))


@pytest.fixture
def speakers(tmp_path):
    """Five rows of three speakers and two named classes, as a dataset on disk."""
    rows = {"text": list("abcde"), "speaker": [7, 7, 21, 3, 21], "label": [0, 1, 1, 0, 0]}
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "speaker": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "speakers"))
    return str(tmp_path / "speakers")


def test_speakers_are_kept_and_held_out(speakers):
    held_out = load_source(Source(path=speakers, keep={"speaker": [21]}), TEXT, label_column="label")
    rest = load_source(Source(path=speakers, drop={"speaker": [21]}), TEXT, label_column="label")
    both = load_source(Source(path=speakers, keep={"speaker": [7, 21]}, drop={"label": ["no"]}), TEXT)
    assert (held_out["text"][:], held_out["label"][:]) == (["c", "e"], [1, 0])
    assert (rest["text"][:], rest.column_names) == (["a", "b", "d"], ["text", "label"])
    assert both["text"][:] == ["b", "c"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"keep": {"spaeker": [7]}}, "keep names no column 'spaeker': use one of text, speaker, label"),
        ({"drop": {"speaker": [8]}}, "drop.speaker holds 8, which no row has: use values of 21, 3, 7"),
        ({"drop": {"label": ["maybe"]}}, "drop.label holds 'maybe': use no, yes"),
    ],
)
def test_a_slip_in_what_is_kept_is_refused(speakers, choice, message):
    with pytest.raises(ValueError, match=message):
        load_source(Source(path=speakers, **choice), TEXT)
    with pytest.raises(ValueError, match="cannot be applied to a stream"):
        load_source(Source(path=speakers, **choice), TEXT, streaming=True)


@pytest.mark.parametrize("splits", [False, True])
def test_a_saved_dataset_without_rows_is_named(tmp_path, splits):
    empty = datasets.Dataset.from_dict({"text": []})
    (datasets.DatasetDict({"train": empty}) if splits else empty).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"data source '.*saved'.* cannot be opened\. It holds no rows"):
        load(tmp_path / "saved")
