"""A table's paths stay below a folder that the user named, whatever they are spelt like."""

import json
import os
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.image import IMAGE
from data2vec.pretraining.modalities.sound_files import AUDIO, read_crop


@pytest.fixture
def place(tmp_path):
    """A folder with a clip, and one beside it with another, which links lead to."""
    for folder in ("offered/clips", "private"):
        (tmp_path / folder).mkdir(parents=True)
        soundfile.write(tmp_path / folder / "a.wav", np.random.default_rng(0).standard_normal(4000) / 9, 16000)
    os.symlink(tmp_path / "private" / "a.wav", tmp_path / "offered" / "link.wav")
    os.symlink(tmp_path / "private", tmp_path / "offered" / "folder")
    os.symlink(tmp_path / "offered" / "clips", tmp_path / "offered" / "within")
    return tmp_path


def write_table(place: Path, names: list[str], ending: str) -> Path:
    path = place / "offered" / f"table{ending}"
    table = datasets.Dataset.from_dict({"audio": names, "words": ["x"] * len(names)})
    if ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in table))
    elif ending == ".csv":
        table.to_csv(path)
    elif ending == ".parquet":
        table.to_parquet(path)
    else:
        table.save_to_disk(path)
        (path / "clips").mkdir(exist_ok=True)
    return path


def rows(path: Path, streaming: bool = False, **fields) -> list[str]:
    source = Source(path=str(path), **fields)
    return [row["audio"] for row in load_source(source, AUDIO, streaming=streaming)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_paths_start_from_the_tables_folder(place, ending, streaming, monkeypatch):
    monkeypatch.chdir("/")
    names = ["clips/a.wav", "./clips/../clips/a.wav", "within/a.wav", str(place / "offered" / "clips" / "a.wav")]
    found = rows(write_table(place, names, ending), streaming)
    assert len(found) == 4 and all(len(read_crop(name, name, 1000, None)) == 1000 for name in found)


ESCAPES = [
    "../private/a.wav",
    "clips/../../private/a.wav",
    "link.wav",
    "folder/a.wav",
    "/etc/passwd",
    "{}/private/a.wav",
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ESCAPES)
def test_what_leads_out_of_it_is_refused_by_name_unless_a_root_allows_it(place, name, streaming):
    name = name.format(place)
    table = write_table(place, ["clips/a.wav", name], ".jsonl")
    with pytest.raises(ValueError, match=r"names the file .*root") as error:
        rows(table, streaming)
    assert repr(name) in str(error.value)
    table = write_table(place, [name, str(place / "offered" / "clips" / "a.wav")], ".jsonl")
    if name.startswith("/"):
        assert len(rows(table, streaming, root="/")) == 2
        with pytest.raises(ValueError, match="names the file"):
            rows(table, streaming, root=str(place / "offered"))


def test_a_root_moves_where_paths_start(place):
    table = write_table(place, ["offered/clips/a.wav", "private/a.wav"], ".csv")
    found = rows(table, root=str(place))
    assert found == [str(place / "offered/clips/a.wav"), str(place / "private/a.wav")]
    with pytest.raises(ValueError, match=r"data\.sources\.root = ''"):
        Source(path="x", root="")


def test_tables_in_several_folders_need_a_root(place):
    write_table(place, ["a.wav"], ".jsonl")
    (place / "private" / "table.jsonl").write_text('{"audio": "a.wav", "words": "x"}')
    with pytest.raises(ValueError, match="2 folders.*set its root"):
        rows(place / "*" / "table.jsonl")
    assert len(rows(place / "*" / "table.jsonl", root=str(place))) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_saved_datasets_name_no_files_elsewhere_and_keep_bytes(place, streaming):
    saved = write_table(place, [str(place / "private" / "a.wav")], "")
    with pytest.raises(ValueError, match="names the file"):
        rows(saved, streaming)
    Image.new("L", (4, 4)).save(place / "private" / "i.png")
    content = (place / "private" / "i.png").read_bytes()
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    Image.new("L", (4, 4)).save(place / "private" / "i.png")
    for bytes_, path, refused in (
        (None, str(place / "private" / "i.png"), True),
        (None, "../private/i.png", True),
        (content, "/etc/passwd", False),
    ):
        target = Source(path=str(place / f"saved-{refused}"))
        value = {"image": [{"bytes": bytes_, "path": path}]}
        datasets.Dataset.from_dict(value, features=features).save_to_disk(target.path)
        if refused:
            with pytest.raises(ValueError, match="names the file"):
                list(load_source(target, IMAGE, streaming=streaming))
        else:
            (row,) = load_source(target, IMAGE, streaming=streaming)
            assert row["image"]["bytes"] == content
    (place / "here").mkdir()
    (place / "here" / "i.png").write_bytes(content)
    value = {"image": [{"bytes": None, "path": "i.png"}]}
    datasets.Dataset.from_dict(value, features=features).save_to_disk(place / "here")
    (row,) = load_source(Source(path=str(place / "here")), IMAGE, streaming=streaming)
    assert row["image"]["path"] == str(place / "here" / "i.png")  # not from the working directory


@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_of_images_names_no_files_elsewhere(place, streaming):
    Image.new("L", (4, 4)).save(place / "private" / "i.png")
    raw = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "../private/i.png"}]}, features=raw)
    table = rows.data.table.replace_schema_metadata(
        datasets.Features({"image": datasets.Image()}).arrow_schema.metadata
    )
    pq.write_table(table, place / "offered" / "pictures.parquet")
    with pytest.raises(ValueError, match="names the file"):
        list(load_source(Source(path=str(place / "offered" / "pictures.parquet")), IMAGE, streaming=streaming))


def test_links_in_a_folder_that_the_user_named_are_followed(place):
    assert len(rows(place / "offered")) == 3  # clips/a.wav, folder/a.wav, link.wav
