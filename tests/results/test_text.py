"""docs/results/text.py: features of sentences, scores on the tasks, and the whole evaluation on tiny data."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import text
import torch
from prepare_text import letters_only
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics import matthews_corrcoef
from text_features import WordVectors, bag_of_words, encoder_features
from text_tasks import TASKS, Examples, Task, cosine, nothing_known, scores, standard_error
from transformers import Data2VecTextConfig, Data2VecTextModel, set_seed

from data2vec.pretraining.train_tokenizer import train_tokenizer


KIND, UNKIND = "splendid lovely charming", "dreadful tedious awful"
TINY: dict[str, Any] = {
    "model.hidden_size": 16,
    "model.num_hidden_layers": 2,
    "model.intermediate_size": 32,
    "objective.top_k_layers": 2,
    "training.max_steps": 3,
    "training.warmup_steps": 1,
    "training.logging_steps": 1,
    "training.per_device_train_batch_size": 5,
}


def test_text_is_reduced_to_words_of_lower_case_letters() -> None:
    assert letters_only("  It's 90 % GREAT,\nnot -- bad! ") == "its great not bad"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([KIND, UNKIND], 261)


@pytest.fixture(scope="module")
def encoder() -> Data2VecTextModel:
    set_seed(0)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = Data2VecTextConfig(vocab_size=261, max_position_embeddings=13, initializer_range=0.3, **sizes)
    return Data2VecTextModel(config, add_pooling_layer=False).eval()


class TestEncoderFeatures:
    def test_are_the_mean_over_letters_pieces_and_layers(self, encoder: Data2VecTextModel, tokenizer: Any) -> None:
        sentence = "a tediously long one"  # 20 letters and spaces: pieces of 9, 9 and 2
        found = encoder_features(encoder, tokenizer, ["short", sentence], most=100)

        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        states = []
        for start in (0, 9, 18):
            row = torch.tensor([[0, *ids[start : start + 9], 2]])
            with torch.no_grad():
                layers = encoder(row, output_hidden_states=True).hidden_states
            states += [sum(layer[0, place] for layer in layers) / len(layers) for place in range(1, row.shape[1] - 1)]
        np.testing.assert_allclose(found[1], torch.stack(states).mean(0).numpy(), atol=1e-5)
        assert len(states) == 20

    def test_of_a_long_text_are_those_of_its_end(self, encoder: Data2VecTextModel, tokenizer: Any) -> None:
        cut, end = encoder_features(encoder, tokenizer, ["something before awful", "awful"], most=5)
        np.testing.assert_allclose(cut, end, atol=1e-6)

    def test_a_text_without_letters_has_features(self, encoder: Data2VecTextModel, tokenizer: Any) -> None:
        assert np.isfinite(encoder_features(encoder, tokenizer, ["10/10 !"], most=5)).all()


def test_word_vectors_bring_together_what_stands_in_the_same_places() -> None:
    rng = np.random.default_rng(0)
    texts = [
        " ".join(rng.choice(pool.split(), 12))
        for pool in (f"{KIND} sunny warm", f"{UNKIND} cold rain") * 50
    ]  # fmt: skip
    first, second = ["lovely", "lovely"], ["charming", "tedious"]
    vectors = WordVectors(texts)
    alike, unlike = cosine(vectors(first), vectors(second))
    assert alike > unlike + 0.1
    assert not vectors(["zebra"]).any()  # a word that the texts have not


class TestScores:
    def examples(self, number: int, seed: int) -> Examples:
        rng = np.random.default_rng(seed)
        labels = rng.integers(2, size=number)
        texts = [" ".join(rng.choice((KIND if label else UNKIND).split(), 2)) for label in labels]
        return Examples((texts,), labels)

    def test_what_words_give_away_is_found_and_noise_is_not(self) -> None:
        train, test = self.examples(600, 0), self.examples(211, 1)
        known = scores(Task("", ("text",), few=True), train, test, bag_of_words(train.sentences[0]).transform)
        assert set(known) == {"linear", "few 50", "few 200"} and min(known.values()) > 99
        noise = np.random.default_rng(0)
        blind = scores(
            Task("", ("text",), few=True), train, test, lambda sentences: noise.normal(size=(len(sentences), 7))
        )
        assert 40 < blind["linear"] < 60

    def test_cola_is_scored_by_matthews_correlation(self) -> None:
        train, test = self.examples(600, 0), self.examples(211, 1)
        wrong = np.where(np.arange(211) % 3 == 0, 1 - test.labels, test.labels)
        found = scores(
            TASKS["cola"], train, Examples(test.sentences, wrong), bag_of_words(train.sentences[0]).transform
        )
        assert found["linear"] == pytest.approx(100 * matthews_corrcoef(wrong, test.labels), abs=0.01)

    def test_a_pair_is_judged_by_what_its_sentences_share(self) -> None:
        rng = np.random.default_rng(0)

        def pairs(number: int) -> Examples:
            labels = rng.integers(2, size=number)
            first = [rng.choice(KIND.split()) for _ in labels]
            other = [rng.choice([word for word in KIND.split() if word != one]) for one in first]
            return Examples(
                (first, [a if same else b for a, b, same in zip(first, other, labels, strict=True)]), labels
            )

        train, test = pairs(400), pairs(101)
        assert scores(TASKS["rte"], train, test, bag_of_words(train.sentences[0]).transform)["linear"] > 99

    @pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
    def test_similarity_is_the_rank_correlation_of_the_cosine(self, kind: Any) -> None:
        rng = np.random.default_rng(0)
        u, v, labels = rng.normal(size=(31, 5)), rng.normal(size=(31, 5)), rng.uniform(0, 5, 31)
        v[3] = 0
        cosines = [0 if not b.any() else a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(u, v, strict=True)]
        np.testing.assert_allclose(cosine(kind(u), kind(v)), cosines, atol=1e-9)
        rows = {str(i): row for i, row in enumerate([*u, *v])}
        names = [str(i) for i in range(62)]
        test = Examples((names[:31], names[31:]), labels)
        found = scores(TASKS["stsb"], test, test, lambda texts: kind(np.stack([rows[text] for text in texts])))
        assert found == {"cosine": round(100 * spearmanr(cosines, labels).statistic, 2)}

    def test_chance_and_its_error_follow_from_the_test_examples(self) -> None:
        test = Examples(([""] * 100,), np.array([1] * 70 + [0] * 30))
        assert nothing_known(TASKS["rte"], test) == pytest.approx(70) and standard_error(TASKS["rte"], test) == 5
        assert nothing_known(TASKS["cola"], test) == 0 and standard_error(TASKS["stsb"], test) == 10


def test_the_table_and_the_picture_show_every_seed(tmp_path: Path) -> None:
    def of_tasks(shift: float) -> dict[str, dict[str, float]]:
        measures = ("linear", "few 50", "few 200", "cosine")
        return {task: dict.fromkeys(measures, 60 + shift) for task in TASKS}

    about = {"metric": "accuracy", "nothing_known": 50.0, "standard_error": 1.25}
    found = {
        "arms": {"letters": [{"student": of_tasks(shift), "untrained": of_tasks(-9)} for shift in (0, 1, 5)]},
        "yardsticks": {"bag of words": of_tasks(11)},
        "tasks": dict.fromkeys(TASKS, about),
    }
    student, untrained, words, *_, error = text.table(found).splitlines()[2:]
    assert "| 62.0 (60.0 to 65.0) |" in student and "| 51.0 (51.0 to 51.0) |" in untrained
    assert "| 71.0 |" in words and error.startswith("| standard error | 1.2")
    text.draw(found, tmp_path / "text.png")
    assert (tmp_path / "text.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_whole_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).parents[3] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("needs the data sets beside the repository")
    monkeypatch.setattr(datasets, "load_dataset", _smaller(datasets.load_dataset))
    arms = {
        "letters": text.Arm("text_v1", seeds=1, fine_tune=True),
        "mlm": text.Arm("text_v1", text.MLM, ("student",), 1),
    }
    sizes = {"train_examples": 60, "most_tokens": 30, "fine_tune_labels": 5, "fine_tune_steps": 2, "common": TINY}
    monkeypatch.setattr("text_tasks.FEW", (5,))
    found = text.evaluate(data, tmp_path, arms=arms, **sizes)
    assert json.loads(json.dumps(found)) == text.evaluate(
        data, tmp_path, arms=arms, **sizes
    )  # all of it is found again
    assert set(found["arms"]["letters"][0]) == {"seed", "student", "untrained"}
    assert set(found["fine_tuned"]["letters"][0]) == {"pretrained", "scratch"}
    assert 0 <= found["arms"]["mlm"][0]["student"]["sst2"]["few 5"] <= 100


def _smaller(load: Any) -> Any:
    def load_few(*args: Any, **fields: Any) -> Any:
        found = load(*args, **fields)
        if isinstance(found, datasets.Dataset):
            return found.select(range(40))
        return datasets.DatasetDict({name: part.shuffle(seed=0).select(range(60)) for name, part in found.items()})

    return load_few
