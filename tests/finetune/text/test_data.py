"""Text rows: columns, labels and what is wrong with a row; cut texts; bytes and sub-words alike."""

import logging

import datasets
import pytest
from transformers import Data2VecTextConfig

from data2vec.finetune.data_arguments import LabelledSource
from data2vec.finetune.examples import Examples
from data2vec.finetune.text.arguments import TextClassificationData
from data2vec.finetune.text.data import (
    empty_texts,
    find_text_columns,
    label_rows,
    log_cut,
    open_text,
    open_tokenizer,
    read_text,
    tokenised_rows,
)
from data2vec.finetune.text.glue_tasks import GLUE
from data2vec.pretraining.train_tokenizer import train_tokenizer


SOURCE = LabelledSource(path="here")
WORDS = [f"word{number} and some more" for number in range(200)]


@pytest.fixture(scope="module", params=[261, 281], ids=["bytes", "sub-words"])
def tokenizer(request):
    return train_tokenizer(WORDS, request.param)


def rows_of(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def examples_of(rows, tokenizer, columns=("text",), max_tokens=30):
    return Examples(tokenised_rows(rows, tokenizer, columns, max_tokens), read_text, name="train", seed=0)


def test_a_text_and_a_pair_read_as_roberta_writes_them(tokenizer):
    rows = rows_of(a=["word1"], b=["more word2"])
    (example,) = examples_of(rows, tokenizer, ("a", "b"))
    assert tokenizer.decode(example["input_ids"]) == "<s>word1</s></s>more word2</s>"
    (example,) = examples_of(rows, tokenizer, ("b",))
    assert tokenizer.decode(example["input_ids"]) == "<s>more word2</s>"


def test_long_texts_are_cut_where_they_are_longest_and_counted(tokenizer, caplog):
    rows = rows_of(a=["word3", "word4 " * 40, "word5"], b=["more", "more", "more " * 50])
    examples = examples_of(rows, tokenizer, ("a", "b"))
    with caplog.at_level(logging.WARNING):
        log_cut(examples, 30)
    assert [len(example["input_ids"]) for example in examples][1:] == [30, 30]
    assert examples.rows["length"][:] == [len(example["input_ids"]) for example in examples]
    assert "2 of 3 texts (66.7 %) are longer than max_tokens = 30 and are cut" in caplog.text
    cut = tokenizer.decode(examples[1]["input_ids"])
    assert cut.endswith("</s></s>more</s>")  # the short one of the pair is whole
    assert examples[0]["input_ids"].tolist() == tokenizer("word3", "more")["input_ids"]


def test_a_pair_says_which_of_its_texts_is_empty(tokenizer):
    rows = rows_of(premise=["word1", None, "word2"], hypothesis=[" \n", "word1", "word3"])
    bad = empty_texts(tokenised_rows(rows, tokenizer, ("premise", "hypothesis"), 30))
    assert {row: str(error) for row, error in bad.items()} == {
        0: "its hypothesis is empty: fill it in, or remove the row.",
        1: "its premise is empty: fill it in, or remove the row.",
    }
    assert {error.problem for error in bad.values()} == {"empty"}


def test_a_missing_label_column_is_named():
    with pytest.raises(ValueError, match="has no column 'label': set label_column to one of text, stars"):
        label_rows(rows_of(text=["a"], stars=[1]), SOURCE)


def test_columns_are_found_by_name_or_asked_for():
    assert find_text_columns(rows_of(sentence=["a"], label=[0]), SOURCE, None) == ("sentence",)
    assert find_text_columns(rows_of(premise=["a"], text=["b"], hypothesis=["c"]), SOURCE, None)[0] == "premise"
    assert find_text_columns(rows_of(title=["a"], body=["b"]), SOURCE, ["title", "body"]) == ("title", "body")
    with pytest.raises(ValueError, match="set data.text_columns to one or two of title, body"):
        find_text_columns(rows_of(title=["a"], body=["b"]), SOURCE, None)
    with pytest.raises(ValueError, match="no column 'head': set data.text_columns"):
        find_text_columns(rows_of(title=["a"]), SOURCE, ["head"])


def test_the_glue_tasks_read_from_the_hub_or_a_folder(tmp_path):
    on_hub = TextClassificationData(task_name="mnli")
    assert on_hub.train == LabelledSource(path="nyu-mll/glue", name="mnli", split="train")
    assert on_hub.validation == LabelledSource(path="nyu-mll/glue", name="mnli", split="validation_matched")
    assert set(on_hub.further_validation()) == {"validation_mismatched"}
    (tmp_path / "rte").mkdir()
    here = TextClassificationData(task_name="rte", glue=str(tmp_path))
    assert here.train == LabelledSource(path=str(tmp_path / "rte"), split="train") and not here.further_validation()
    for name in ("train-00000-of-00001.parquet", "train_of_others.csv"):
        (tmp_path / "rte" / name).touch()
    assert TextClassificationData(task_name="rte", glue=str(tmp_path)).train.path == str(
        tmp_path / "rte" / "train[-.]*"
    )
    own = TextClassificationData.from_dict({"task_name": "mnli", "validation": {"path": "mine.csv"}})
    assert own.validation is not None and own.validation.path == "mine.csv" and own.further_validation() == {}
    with pytest.raises(ValueError, match="data.task_name = 'cola' is invalid: .* it has rte"):
        TextClassificationData(task_name="cola", glue=str(tmp_path))
    with pytest.raises(ValueError, match="data.task_name = 'colla' is invalid: use one of mnli"):
        TextClassificationData(task_name="colla")
    with pytest.raises(ValueError, match="data.train = None is invalid: name a source"):
        TextClassificationData()


def test_a_licence_in_a_folder_is_no_data(tmp_path):
    rows_of(sentence=["a", "b"], label=[0, 1]).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    (tmp_path / "LICENSE.txt").write_text("Not data.")
    assert open_text(LabelledSource(path=str(tmp_path), split="train"))["sentence"][:] == ["a", "b"]


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    fitting = Data2VecTextConfig(vocab_size=len(tokenizer))
    assert len(open_tokenizer(str(tmp_path / "tokenizer"), fitting)) == len(tokenizer)
    with pytest.raises(ValueError, match=f"has {len(tokenizer)} tokens, the encoder's vocab_size is 100"):
        open_tokenizer(str(tmp_path / "tokenizer"), Data2VecTextConfig(vocab_size=100))
    with pytest.raises(ValueError, match="pads with 1, the encoder with pad_token_id = 0"):
        open_tokenizer(str(tmp_path / "tokenizer"), Data2VecTextConfig(vocab_size=len(tokenizer), pad_token_id=0))
    fitting.save_pretrained(tmp_path / "none")  # AutoTokenizer makes an empty one of a configuration alone
    with pytest.raises(ValueError, match="Set data.tokenizer to the one that the encoder was pretrained with"):
        open_tokenizer(str(tmp_path / "none"), fitting)


def test_submissions_are_written_as_the_benchmark_reads_them():
    assert [GLUE["mnli"].submission_file(split) for split in GLUE["mnli"].test_splits] == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    assert GLUE["mnli"].submitted(2) == "contradiction" and GLUE["cola"].submitted(1) == "1"
    assert GLUE["rte"].submitted(0) == "entailment" and GLUE["wnli"].submitted(0) == "0"
    assert [GLUE["stsb"].submitted(value) for value in (5.3, 2.34567, -1.0)] == ["5.000", "2.346", "0.000"]
