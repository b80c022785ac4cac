"""Tables of text: cells and JSON strings arrive letter for letter, and what is no table is named with its line."""

import gzip
import json
import os
import zipfile

import datasets
import pytest

from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.text_rows import TEXT, documents_of


WORDS = ["null", "NA", "None", "nan", "n/a", "007", "true", "12", "1e5", "2020-01-01", " x ", 'a "b", c', "ü"]


def load(path, streaming=False, split=None, **how):
    source = Source(path=str(path), split=split, **{name: how.pop(name) for name in ("keep", "drop") if name in how})
    return load_source(source, TEXT, streaming=streaming, **how)


def csv_of(words: list[str]) -> str:
    return "text,n\n" + "".join('"{}",{}\n'.format(word.replace('"', '""'), i) for i, word in enumerate(words))


def jsonl_of(words: list[str]) -> str:
    return "".join(json.dumps({"text": word, "n": i}) + "\n" for i, word in enumerate(words))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("words", [WORDS, ["7", "12"], ["2020-01-01", "2021-02-03 04:05:06"], ["true", "false"]])
def test_a_text_is_read_as_it_is_written(tmp_path, words, streaming):
    (tmp_path / "a.csv").write_text(csv_of(words))
    (tmp_path / "a.tsv").write_text("text\tn\n" + "".join(f"{word}\t{i}\n" for i, word in enumerate(words)))
    (tmp_path / "a.jsonl").write_text(jsonl_of(words))
    (tmp_path / "a.csv.jsonl").write_text(jsonl_of(words))
    (tmp_path / "a.json").write_text(json.dumps([{"text": word} for word in words], indent=1))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(csv_of(words).encode()))
    for folder, content, ending in (("csv", csv_of, "csv"), ("json", jsonl_of, "jsonl")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"train.{ending}").write_text(content(["other"]))
        (tmp_path / folder / f"test.{ending}").write_text(content(words))
    datasets.Dataset.from_dict({"text": words}).to_parquet(tmp_path / "a.parquet")
    for name, split in (
        *((f"a.{ending}", None) for ending in ("csv", "tsv", "jsonl", "csv.jsonl", "json", "csv.gz", "parquet")),
        ("csv", "test"),
        ("json", "test"),
    ):
        rows = load(tmp_path / name, streaming, split)
        assert [row["text"] for row in rows] == words, name
        assert list(documents_of([rows])) == words, name


def test_a_folder_with_types_of_its_own_keeps_them_and_the_words(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nnull,1\nNA,0\n")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - {name: text, dtype: string}\n  - name: label\n    dtype:\n"
        "      class_label: {names: {'0': 'no', '1': 'yes'}}\n---\n"
    )
    rows = load(tmp_path, label_column="label")
    assert rows["text"][:] == ["null", "NA"]
    assert rows.features["label"].names == ["no", "yes"] and rows["label"][:] == [1, 0]


def test_json_keeps_the_type_that_a_value_is_written_with(tmp_path):
    late = "".join(json.dumps({"text": "w", "label": i, "tags": ["x"] * (i % 2)}) + "\n" for i in range(1500))
    (tmp_path / "a.jsonl").write_text(late + '\n{"text": null, "label": 0.5, "late": "7"}\n{"text": 5, "late": 8}\n')
    rows = datasets.Dataset.from_list(list(load(tmp_path / "a.jsonl", label_column="label")))
    assert rows["label"][:3] == [0.0, 1.0, 2.0] and rows["label"][1500:] == [0.5, None]
    assert rows["text"][1499:] == ["w", None, "5"]
    assert load_source(Source(path=str(tmp_path / "a.jsonl"), column="late"), TEXT)["text"][1500:] == ["7", "8"]


def test_a_number_in_a_recipe_finds_the_digits_of_a_csv_file(tmp_path):
    (tmp_path / "a.csv").write_text("text,speaker\na,7\nb,07\nc,12\n")
    assert load(tmp_path / "a.csv", keep={"speaker": [7, 12]})["text"][:] == ["a", "c"]
    assert load(tmp_path / "a.csv", drop={"speaker": ["07"]})["text"][:] == ["a", "c"]


def test_splits_of_tables_are_joined_and_cut(tmp_path):
    for name, count in (("train", 10), ("test", 4)):
        (tmp_path / f"{name}.csv").write_text("text\n" + "".join(f"{name} {i}\n" for i in range(count)))
    assert load(tmp_path, split="train[80%:]+test[:1]")["text"][:] == ["train 8", "train 9", "test 0"]
    assert len(list(load(tmp_path, split="train+test", streaming=True))) == 14
    assert load(tmp_path / "test.csv", split="train[:2]")["text"][:] == ["test 0", "test 1"]
    for how, message in (
        ({"split": "dev"}, "no split 'dev'.*train, test"),
        ({"split": "train[:1]", "streaming": True}, "cut"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, **how)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,n\na,1\nb,2,3\n", "'.*a.csv', line 3: the row has 3 cells, the header 2"),
        ("a.csv", b"text,n\na\n", "line 2: the row has 1 cells, the header 2"),
        ("a.csv", b'text\n"a\nb\n', "line 3: unexpected end of data. Is a quotation mark not closed"),
        ("a.csv", b"text,text\na,b\n", "two columns of one name"),
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text\n", "has no rows"),
        ("a.csv", "text\nÄ\n".encode("latin-1"), "is not UTF-8"),
        ("a.csv.gz", gzip.compress(b"text\n" + b"a\n" * 9999, mtime=0)[:40], "ends early or is damaged"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON.*one object per line"),
        ("a.jsonl", b'{"text": "a"}\n\n["b"]\n7\n', "line 3: 'b' is not an object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1 is not JSON.*surrogates"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.jsonl", b'{"text": 1.5}\n', "holds .*float64.*, not text"),
        ("a.jsonl", b'{"text": ["a"]}\n', "holds List.*, not text"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path, name, content, message, streaming):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(load(tmp_path / name, streaming))


def test_an_archive_of_tables_is_no_table(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.writestr(name, csv_of(["x"]))
    with pytest.raises(ValueError, match=r"train.zip' ends in none of \.csv, .*: unpack or rename it"):
        load(tmp_path)


def test_tables_of_other_columns_are_not_joined(tmp_path):
    for name, column in (("a", "n"), ("b", "m")):
        (tmp_path / f"{name}.csv").write_text(f"text,{column}\nx,1\n")
    with pytest.raises(ValueError, match=r"b.csv' has the columns text, m, the first file text, n"):
        load(tmp_path / "*.csv")


@pytest.mark.parametrize(
    ("name", "before", "after"), [("a.csv", "text\nold\n", "text\nnew\n"), ("a.txt", "old\n", "new\n")]
)
def test_a_file_is_read_again_when_it_was_replaced_by_one_of_the_same_size_and_time_of_writing(
    tmp_path, name, before, after
):
    path = tmp_path / name
    for content in (before, after):
        path.write_text(content)
        os.utime(path, (1e9, 1e9))
        assert load(path)["text"][:] == [content.split()[-1]]
