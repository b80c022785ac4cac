"""Text: documents packed as RoBERTa does, nothing lost; tokenizers trained in one command; misfits are refused."""

import json
import logging

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Data2VecTextConfig, pipeline

from data2vec.modeling import Data2Vec2TextForPreTraining, Data2VecTextForPreTraining
from data2vec.modeling.configuration_objective import ObjectiveConfig
from data2vec.pretraining import train_tokenizer as command
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.modalities.text import TextData, TextDataArguments
from data2vec.pretraining.train_tokenizer import train_tokenizer
from data2vec.tests.reference import SAMPLES


VOCABULARY = 331


def sentences(count: int, seed: int = 0) -> list[str]:
    """Documents of 0 to 59 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"word{n}" for n in rng.integers(0, 400, rng.integers(0, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sentences(400), VOCABULARY)


def config(**fields) -> Data2VecTextConfig:
    fields = {"vocab_size": VOCABULARY, "pad_token_id": 1, "max_position_embeddings": 514} | fields
    return Data2VecTextConfig(**fields)


def text_data(tokenizer, **fields) -> TextData:
    fields = {"sources": [{"path": "unused"}], "block_size": 37} | fields
    return TextData(TextDataArguments(**fields), config(), tokenizer)


def rows_of(modality: TextData, documents: list[str], **how) -> list[list[int]]:
    rows = modality.prepare(datasets.Dataset.from_dict({"text": documents}), **how)
    return [rows[i]["input_ids"].tolist() for i in range(len(rows))]


def packed_by_hand(tokenizer, documents: list[str], size: int) -> list[list[int]]:
    stream = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        stream += [*ids, 2] if ids else []
    return [[0, *stream[i : i + size - 1]] for i in range(0, len(stream), size - 1)]


@pytest.mark.parametrize(
    "documents", [sentences(101), sentences(101, seed=1), ["", "", "word1 word2"], ["word5 " * 200]]
)
@pytest.mark.parametrize("size", [3, 37, 211])
def test_documents_are_packed_in_order_and_nothing_is_lost(tokenizer, documents, size):
    modality = text_data(tokenizer, block_size=size)
    rows, expected = rows_of(modality, documents), packed_by_hand(tokenizer, documents, size)
    if expected[-1] == [0, 2]:  # a lone end token is no row
        expected.pop()
    assert rows == expected
    streamed = modality.rows_of_stream({"text": document} for document in documents)
    assert [row["input_ids"].tolist() for row in streamed if "empty" not in row] == expected


def test_rows_keep_their_meaning():
    documents = ["first document, of two sentences. This is the second.", "another one"]
    tokenizer = train_tokenizer([" ".join(documents) + f" {i}" for i in range(9)], 270)
    modality = TextData(
        TextDataArguments(sources=[{"path": "unused"}], block_size=512),
        config(vocab_size=270),
        tokenizer,
    )
    (row,) = rows_of(modality, documents)
    assert tokenizer.decode(row) == f"<s>{documents[0]}</s>{documents[1]}</s>"


def test_examples_come_in_any_order_with_their_lengths(tokenizer):
    modality = text_data(tokenizer)
    rows = modality.prepare(datasets.Dataset.from_dict({"text": sentences(101)}))
    dataset = PretrainingDataset([rows, rows], modality, seed=0)
    expected = packed_by_hand(tokenizer, sentences(101), 37)
    assert len(dataset) == 2 * len(expected)
    for index in np.random.default_rng(0).permutation(len(dataset)):
        example = dataset[5, int(index)]
        assert example["input_ids"].dtype == torch.int64
        assert example["input_ids"].tolist() == expected[index % len(expected)]
        assert dataset.lengths[index] == len(example["input_ids"])
    assert (dataset.lengths[: len(expected) - 1] == 37).all()


def test_without_packing_a_row_is_a_document_or_a_piece_of_one(tokenizer):
    documents = sentences(53)
    modality = text_data(tokenizer, pack=False)
    expected = []
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        expected += [[0, *ids[i : i + 35], 2] for i in range(0, len(ids), 35)]
    assert rows_of(modality, documents) == expected
    streamed = modality.rows_of_stream({"text": document} for document in documents)
    assert [row["input_ids"].tolist() for row in streamed if "empty" not in row] == expected


def test_a_labelled_document_is_one_row_cut_at_its_end(tokenizer):
    rows = text_data(tokenizer).prepare(
        datasets.Dataset.from_dict({"text": ["word1 " * 90, "", "word2"], "label": [2, 0, 1]}), packed=False
    )
    assert [rows[i]["label"] for i in range(len(rows))] == [2, 0, 1]
    assert [len(rows[i]["input_ids"]) for i in range(2)] == [37, 2]
    assert rows[2]["input_ids"].tolist() == tokenizer("word2")["input_ids"]


def test_empty_documents_are_counted(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        rows = text_data(tokenizer).prepare(datasets.Dataset.from_dict({"text": ["", "word1 word2", None]}))
        PretrainingDataset([rows], text_data(tokenizer), seed=0)
    assert "2 empty documents are left out" in caplog.text


# --- Tokenizers -----------------------------------------------------------------------------------------------------


def test_one_command_trains_a_tokenizer_that_autotokenizer_opens(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(sentences(200)))
    with (tmp_path / "b.jsonl").open("w") as file:
        for document in sentences(200, seed=1):
            file.write(json.dumps({"text": document}) + "\n")
    command.main(
        ["--data", str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl"), "--vocab_size", "321", str(tmp_path / "out")]
    )
    assert "321 tokens" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == 321
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 320]
    names = ("bos", "cls", "pad", "eos", "sep", "unk", "mask")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 0, 1, 2, 2, 3, 320]
    every_byte = "".join(map(chr, range(32, 1000))) + "\n\t 😀"
    assert tokenizer.decode(tokenizer(every_byte, add_special_tokens=False)["input_ids"]) == every_byte
    assert len(tokenizer("word17 word18")["input_ids"]) < 12  # it learned the words
    assert tokenizer("a <mask> b")["input_ids"].count(320) == 1
    assert tokenizer("word17")["input_ids"][0] == 0 and tokenizer("word17")["input_ids"][-1] == 2


@pytest.mark.parametrize(("size", "message"), [(100, "take 261"), (5000, "gives only [0-9]+ tokens")])
def test_a_vocabulary_that_the_text_cannot_fill_is_refused(size, message):
    with pytest.raises(ValueError, match=f"vocab_size = {size}.*{message}"):
        train_tokenizer(sentences(50), size)


def test_a_recipe_can_have_its_tokenizer_trained_on_the_sources(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(sentences(200)))
    arguments = {"sources": [{"path": str(tmp_path / "a.txt")}], "tokenizer": "builtin:byte-bpe", "block_size": 37}
    modality = TextData(TextDataArguments(**arguments, batch_tokens=100), config())
    assert len(modality.processor) == VOCABULARY
    assert modality.processor.get_vocab() == train_tokenizer(sentences(200), VOCABULARY).get_vocab()


@pytest.mark.parametrize("encoder_class", [Data2VecTextForPreTraining, Data2Vec2TextForPreTraining])
def test_a_pipeline_cuts_what_is_too_long_for_the_encoder(tokenizer, encoder_class, tmp_path):
    """Of what a pretraining run saves: the encoder, and the processor of its data."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    encoder = encoder_class.config_class(
        vocab_size=VOCABULARY, max_position_embeddings=26, pad_token_id=1, **sizes,
        objective={**encoder_class.default_objective, "top_k_layers": 1},
    )  # fmt: skip
    modality = TextData(TextDataArguments(sources=[{"path": "unused"}], block_size=24), encoder, tokenizer)
    encoder_class(encoder).save_encoder(str(tmp_path))
    modality.processor.save_pretrained(tmp_path)
    features = pipeline("feature-extraction", str(tmp_path))("word1 " * 400, truncation=True)
    assert len(features[0]) == 24


@pytest.mark.parametrize(
    ("encoder", "fields", "message"),
    [
        ({"vocab_size": 330}, {}, "vocab_size = 330.*331 tokens"),
        ({"pad_token_id": 0}, {}, "pad_token_id = 0.*tokenizer's, 1"),
        ({}, {"block_size": 513}, r"data.block_size = 513.*512 tokens.*max_position_embeddings to 515"),
    ],
)
def test_a_tokenizer_or_length_that_does_not_fit_the_encoder_is_refused(tokenizer, encoder, fields, message):
    arguments = TextDataArguments(sources=[{"path": "unused"}], **fields)
    with pytest.raises(ValueError, match=message):
        TextData(arguments, config(**encoder), tokenizer)


def test_the_mask_token_must_be_the_encoders(tokenizer):
    objective = ObjectiveConfig.from_dict({"masking": {"method": "token"}})
    arguments = TextDataArguments(sources=[{"path": "unused"}], block_size=37)
    with pytest.raises(ValueError, match="mask_token_id = 339.*330"):
        TextData(arguments, config(vocab_size=340), tokenizer).collator(objective, seed=0)
    TextData(arguments, config(vocab_size=340, mask_token_id=330), tokenizer).collator(objective, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_size": 2}, "data.block_size = 2"),
        ({"batch_tokens": 36}, "data.batch_tokens = 36.*block_size = 37"),
        ({"sample_by": "page"}, "data.sample_by = 'page'"),
        ({"pack": "yes"}, "data.pack = 'yes'.*true or false"),
    ],
)
def test_impossible_numbers_are_refused(tokenizer, fields, message):
    with pytest.raises(ValueError, match=message):
        text_data(tokenizer, **fields)


@pytest.mark.parametrize(("given", "message"), [(None, "builtin:byte-bpe"), ("/nowhere/at/all", "cannot be opened")])
def test_a_missing_tokenizer_is_named(given, message):
    arguments = TextDataArguments(sources=[{"path": "unused"}], tokenizer=given)
    with pytest.raises(ValueError, match=f"data.tokenizer = .*{message}"):
        TextData(arguments, config())


def test_real_text(tokenizer):
    speeches = datasets.load_dataset("parquet", data_files=str(SAMPLES / "shakespeare/data/validation*"))["train"]
    assert rows_of(text_data(tokenizer), speeches["text"][:20]) == packed_by_hand(tokenizer, speeches["text"][:20], 37)
