"""Text rows: columns, labels and what is wrong with a row; cut texts; bytes and sub-words alike."""

import logging

import datasets
import pytest
from transformers import Data2VecTextConfig

from data2vec.finetune.data_arguments import LabelledSource
from data2vec.finetune.text.arguments import TextDataArguments
from data2vec.finetune.text.data import (
    TextCollator,
    TextLabels,
    find_labels,
    find_text_columns,
    open_text,
    open_tokenizer,
    text_examples,
    tokenised_rows,
)
from data2vec.finetune.text.glue_tasks import GLUE
from data2vec.pretraining.data.modality import BadExample
from data2vec.pretraining.train_tokenizer import train_tokenizer


SOURCE = LabelledSource(path="here")
WORDS = [f"word{number} and some more" for number in range(200)]


@pytest.fixture(scope="module", params=[261, 281], ids=["bytes", "sub-words"])
def tokenizer(request):
    return train_tokenizer(WORDS, request.param)


def rows_of(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def examples_of(rows, tokenizer, labels, columns=("text",), max_tokens=30, **how):
    tokens = tokenised_rows(rows, tokenizer, columns, max_tokens, labels)
    return text_examples(tokens, name="train", seed=0, max_tokens=max_tokens, **how)


def test_a_text_and_a_pair_read_as_roberta_writes_them(tokenizer):
    rows = rows_of(a=["word1"], b=["more word2"], label=[1])
    (example,) = examples_of(rows, tokenizer, TextLabels(("no", "yes")), ("a", "b"))
    assert tokenizer.decode(example["input_ids"]) == "<s>word1</s></s>more word2</s>"
    assert example["labels"] == 1
    (example,) = examples_of(rows, tokenizer, TextLabels(("no", "yes")), ("b",))
    assert tokenizer.decode(example["input_ids"]) == "<s>more word2</s>"


def test_long_texts_are_cut_where_they_are_longest_and_counted(tokenizer, caplog):
    texts = ["word3", "word4 " * 40, "word5"]
    rows = rows_of(a=texts, b=["more", "more", "more " * 50], label=[0, 1, 0])
    with caplog.at_level(logging.WARNING):
        examples = examples_of(rows, tokenizer, TextLabels(("no", "yes")), ("a", "b"))
    assert [len(example["input_ids"]) for example in examples][1:] == [30, 30]
    assert examples.lengths.tolist() == [len(example["input_ids"]) for example in examples]
    assert "2 of 3 texts (66.7 %) are longer than max_tokens = 30 and are cut" in caplog.text
    cut = tokenizer.decode(examples[1]["input_ids"])
    assert cut.endswith("</s></s>more</s>")  # the short one of the pair is whole
    assert examples[0]["input_ids"].tolist() == tokenizer("word3", "more")["input_ids"]


def test_rows_are_padded_together_and_numbers_stay_numbers(tokenizer):
    rows = rows_of(text=["word1", "word2 and some more"], label=[2.5, 4.0])
    examples = examples_of(rows, tokenizer, TextLabels(()))
    batch = TextCollator(tokenizer.pad_token_id)([examples[0], examples[1]])
    lengths = examples.lengths.tolist()
    assert batch["input_ids"].shape == (2, max(lengths)) and batch["attention_mask"].sum(1).tolist() == lengths
    assert batch["labels"].tolist() == [2.5, 4.0] and batch["labels"].is_floating_point()
    assert "attention_mask" not in TextCollator(tokenizer.pad_token_id)([examples[0]])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("", "good", "data.train, row 1: its text is empty: fill it in"),
        (" \n", "good", "data.train, row 1: its text is empty: fill it in"),
        (None, "good", "data.train, row 1: its text is empty: fill it in"),
        ("fine", None, "data.train, row 1: it has no label: add one"),
        ("fine", "great", "data.train, row 1: its label 'great' is not one of bad, good: correct it, or set data.lab"),
    ],
)
def test_an_unusable_row_is_named_or_left_out_and_counted(tokenizer, caplog, text, label, message):
    rows = rows_of(text=["word1", text, "word2"], label=["bad", label, "good"])
    labels = TextLabels(("bad", "good"))
    with pytest.raises(BadExample, match=message):
        examples_of(rows, tokenizer, labels)
    with caplog.at_level(logging.WARNING):
        examples = examples_of(rows, tokenizer, labels, skip_bad=True)
    assert [example["labels"] for example in examples] == [0, 1] and examples.kept.tolist() == [0, 2]
    assert sum(examples.left_out.values()) == 1 and "row 1 is left out" in caplog.text


def test_a_pair_says_which_of_its_texts_is_empty(tokenizer):
    rows = rows_of(premise=["word1"], hypothesis=[""], label=[0])
    with pytest.raises(BadExample, match="its hypothesis is empty"):
        examples_of(rows, tokenizer, TextLabels(("a", "b")), ("premise", "hypothesis"))


def test_what_labels_mean():
    named = datasets.ClassLabel(names=["neg", "pos"])
    assert find_labels(rows_of(text=["a"], label=[0]).cast_column("label", named), SOURCE, None).names == (
        "neg",
        "pos",
    )
    assert find_labels(rows_of(text=["a"] * 3, label=["pos", "neg", None]), SOURCE, None).names == ("neg", "pos")
    assert find_labels(rows_of(text=["a"] * 3, label=[10, 9, 10]), SOURCE, None).names == ("9", "10")
    assert find_labels(rows_of(text=["a"], label=[0.5]), SOURCE, None).names == ()
    assert find_labels(rows_of(text=["a"], label=[1]), SOURCE, ["no", "yes"]).names == ("no", "yes")
    with pytest.raises(ValueError, match="has 1 classes in column 'label'"):
        find_labels(rows_of(text=["a", "b"], label=["x", "x"]), SOURCE, None)
    with pytest.raises(ValueError, match="has no column 'label': set label_column to one of text, stars"):
        find_labels(rows_of(text=["a"], stars=[1]), SOURCE, None)


def test_a_column_whose_classes_have_another_order_is_read_by_name(tokenizer):
    swapped = datasets.ClassLabel(names=["entailment", "not_entailment"])
    rows = rows_of(text=["a", "b"], label=[0, 1]).cast_column("label", swapped)
    examples = examples_of(rows, tokenizer, TextLabels(GLUE["wnli"].labels))
    assert [example["labels"] for example in examples] == [1, 0]


def test_columns_are_found_by_name_or_asked_for():
    assert find_text_columns(rows_of(sentence=["a"], label=[0]), SOURCE, None) == ("sentence",)
    assert find_text_columns(rows_of(premise=["a"], text=["b"], hypothesis=["c"]), SOURCE, None)[0] == "premise"
    assert find_text_columns(rows_of(title=["a"], body=["b"]), SOURCE, ["title", "body"]) == ("title", "body")
    with pytest.raises(ValueError, match="set data.text_columns to one or two of title, body"):
        find_text_columns(rows_of(title=["a"], body=["b"]), SOURCE, None)
    with pytest.raises(ValueError, match="no column 'head': set data.text_columns"):
        find_text_columns(rows_of(title=["a"]), SOURCE, ["head"])


def test_the_glue_tasks_read_from_the_hub_or_a_folder(tmp_path):
    on_hub = TextDataArguments(task_name="mnli")
    assert on_hub.train == LabelledSource(path="nyu-mll/glue", name="mnli", split="train")
    assert on_hub.validation == LabelledSource(path="nyu-mll/glue", name="mnli", split="validation_matched")
    assert set(on_hub.further_validation()) == {"validation_mismatched"}
    (tmp_path / "rte").mkdir()
    here = TextDataArguments(task_name="rte", glue=str(tmp_path))
    assert here.train == LabelledSource(path=str(tmp_path / "rte"), split="train") and not here.further_validation()
    for name in ("train-00000-of-00001.parquet", "train_of_others.csv"):
        (tmp_path / "rte" / name).touch()
    assert TextDataArguments(task_name="rte", glue=str(tmp_path)).train.path == str(tmp_path / "rte" / "train[-.]*")
    own = TextDataArguments.from_dict({"task_name": "mnli", "validation": {"path": "mine.csv"}})
    assert own.validation is not None and own.validation.path == "mine.csv" and own.further_validation() == {}
    with pytest.raises(ValueError, match="data.task_name = 'cola' is not possible: .* it has rte"):
        TextDataArguments(task_name="cola", glue=str(tmp_path))
    with pytest.raises(ValueError, match="data.task_name = 'colla' is not possible: use one of mnli"):
        TextDataArguments(task_name="colla")
    with pytest.raises(ValueError, match="data.train = None is not possible: name a source"):
        TextDataArguments()


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
