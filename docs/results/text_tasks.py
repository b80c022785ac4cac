"""Five tasks of GLUE and the sentiment of film reviews: what features of sentences are worth on them.

Sentences are encoded one by one; what two of them have to do with each other is read from [u, v, |u - v|, u * v], and
their similarity from the cosine, as in SentEval (Conneau and Kiela 2018). All scores times 100.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import datasets
import numpy as np
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import matthews_corrcoef
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data2vec.pretraining.evaluation.probe import PENALTIES, VALIDATION_SHARE, few_label_accuracy


FEW, DRAWS = (50, 200), 10  # labels per class, and how often they are drawn
COUNTS_PENALTIES = (0.1, 1.0, 10.0, 100.0)  # of sparse counts, which are not standardised
Features = np.ndarray | sparse.csr_matrix  # (sentences, dim)
Encode = Callable[[list[str]], Features]


@dataclass(frozen=True)
class Task:
    """Where a task is and what is asked; `few`: also with few labels. The test examples are GLUE's development set."""

    folder: str
    columns: tuple[str, ...]
    test_split: str = "validation"
    metric: str = "accuracy"
    few: bool = False


PAIR = ("sentence1", "sentence2")
TASKS = {
    "imdb": Task("imdb_sentiment_small", ("text",), "test", few=True),
    "sst2": Task("glue_small/sst2", ("sentence",), few=True),
    "cola": Task("glue_small/cola", ("sentence",), metric="matthews"),
    "mrpc": Task("glue_small/mrpc", PAIR),
    "rte": Task("glue_small/rte", PAIR),
    "stsb": Task("glue_small/stsb", PAIR, metric="spearman"),
}


@dataclass(frozen=True)
class Examples:
    """The columns of a split, and the labels (examples,)."""

    sentences: tuple[list[str], ...]
    labels: np.ndarray


def read(task: Task, data: Path, most: int) -> tuple[Examples, Examples]:
    """Training examples, `most` of them drawn at random, and all test examples."""
    splits = datasets.load_dataset(str(data / task.folder))
    train = splits["train"].shuffle(seed=0)
    train = train.select(range(min(most, len(train))))
    return _examples(task, train), _examples(task, splits[task.test_split])


def _examples(task: Task, split: datasets.Dataset) -> Examples:
    return Examples(tuple(list(split[column][:]) for column in task.columns), np.asarray(split["label"][:]))


def standard_error(task: Task, test: Examples) -> float:
    """Of a score where nothing is known: what the number of test examples alone makes uncertain."""
    return 100 * (0.5 if task.metric == "accuracy" else 1.0) / sqrt(len(test.labels))


def nothing_known(task: Task, test: Examples) -> float:
    """The score of the commonest class, of an uncorrelated score."""
    return 100 * float(np.bincount(test.labels).max() / len(test.labels)) if task.metric == "accuracy" else 0.0


def scores(task: Task, train: Examples, test: Examples, encode: Encode) -> dict[str, float]:
    """{"linear"} and, of some tasks, {"few 50", "few 200"}; of similarity {"cosine"}, which needs no training."""
    test_x = [encode(sentences) for sentences in test.sentences]
    if task.metric == "spearman":
        return {"cosine": round(100 * float(spearmanr(cosine(*test_x), test.labels).statistic), 2)}
    train_x = [encode(sentences) for sentences in train.sentences]
    x, test_of = _joined(train_x), _joined(test_x)
    found = {"linear": _linear(task, x, train.labels, test_of, test.labels)}
    for labels in FEW if task.few else ():
        score = few_label_accuracy(x, train.labels, test_of, test.labels, labels, DRAWS)
        found[f"few {labels}"] = round(100 * score.mean, 2)
    return found


def _linear(task: Task, x: Features, y: np.ndarray, test_x: Features, test_y: np.ndarray) -> float:
    """A logistic regression whose penalty a fifth of the training examples chose, by the task's own metric."""
    counts = sparse.issparse(x)
    scaler = StandardScaler(with_mean=not counts) if not counts else None
    grid = {"logisticregression__C": COUNTS_PENALTIES if counts else PENALTIES}
    chosen_on = StratifiedShuffleSplit(1, test_size=VALIDATION_SHARE, random_state=0)
    metric = "matthews_corrcoef" if task.metric == "matthews" else "accuracy"
    search = GridSearchCV(
        make_pipeline(scaler, LogisticRegression(max_iter=1000)), grid, scoring=metric, cv=chosen_on
    ).fit(x, y)
    predicted = search.predict(test_x)
    score = matthews_corrcoef(test_y, predicted) if task.metric == "matthews" else (predicted == test_y).mean()
    return round(100 * float(score), 2)


def cosine(u: Features, v: Features) -> np.ndarray:
    """Of row i of the one with row i of the other; 0 where one is zero."""
    if sparse.issparse(u):
        product, norms = u.multiply(v).sum(1), [np.sqrt(x.multiply(x).sum(1)) for x in (u, v)]
    else:
        product, norms = (u * v).sum(1), [np.linalg.norm(x, axis=1) for x in (u, v)]
    length = np.asarray(norms[0]).ravel() * np.asarray(norms[1]).ravel()
    return np.asarray(product).ravel() / np.maximum(length, 1e-12)


def _joined(columns: Sequence[Features]) -> Features:
    if len(columns) == 1:
        return columns[0]
    u, v = columns
    if sparse.issparse(u):
        return sparse.csr_matrix(sparse.hstack([u, v, abs(u - v), u.multiply(v)]))
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
