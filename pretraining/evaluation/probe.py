"""What does a frozen encoder know? Features of labelled examples, and classifiers and regressions on them.

Any `transformers` encoder will do. Its features are pooled over real tokens; each classifier or regression is
scikit-learn's, on features standardised with the training set's statistics. What is random follows from a seed.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, ShuffleSplit, StratifiedShuffleSplit, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from ..modalities.build import modality_of


Example = Mapping[str, Any]
Batch = dict[str, Tensor]
Collate = Callable[[Sequence[Any]], Batch]
# An index into `hidden_states` (0 is the first block's input), the encoder's output ("last" or None), the mean of all
# hidden states, or each of them.
Layer = int | Literal["last", "average", "all"] | None
# (examples, dim); sparse ones are used as they are, not standardised
Features: TypeAlias = np.ndarray | sparse.csr_matrix

PENALTIES = (0.001, 0.01, 0.1, 1.0)  # C of the linear probe, chosen on the validation split
RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10000.0)  # alpha of the linear probe of numbers, chosen likewise
FEWEST_NUMBERS = 10  # training examples of that probe: two in the fifth that chooses
SVM_PENALTY = 0.012  # C of Point2Vec's own probe
FEW_LABELS_PENALTY = 0.1  # with few labels there is nothing to choose it on
VALIDATION_SHARE = 0.2
VALIDATION_MOST = 500  # examples that a learning rate is chosen on, so that a large set does not cost time


# Features


def extract_layers(
    encoder: PreTrainedModel, batches: Iterable[Batch], *, layer: Layer = "all", pooled: bool = True
) -> tuple[dict[str, list[np.ndarray]], np.ndarray]:
    """Features of labelled batches by layer, from an encoder that is left as it was found.

    Args:
        encoder: gives `last_hidden_state`, and `hidden_states` where a layer is asked for; run in eval mode, without
            gradient or autocast.
        batches: the encoder's inputs, with `labels` (batch,) where there are any.
        pooled: as the modality pools them, by default the mean over real time steps; otherwise each of them.

    Returns:
        {"layer_0": ..., ...}, or under "last" or "average": an array an example, (dim,) or (time, dim) float32; and
        labels (examples,), -1 where there are none.
    """
    features: dict[str, list[np.ndarray]] = {}
    labels, pool = [], modality_of(encoder.config).pool
    with evaluating(encoder), torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
        for batch in batches:
            hidden, real = hidden_layers(encoder, batch, layer)
            kept = real.cpu().numpy()
            for name, states in hidden.items():
                values = (pool(states, real) if pooled else states).float().cpu().numpy()
                rows = values if pooled else [steps[there] for steps, there in zip(values, kept, strict=True)]
                features.setdefault(name, []).extend(rows)
            labels.append(batch["labels"].cpu().numpy() if "labels" in batch else np.full(len(kept), -1))
    return features, np.concatenate(labels)


def extract_features(
    encoder: PreTrainedModel, batches: Iterable[Batch], *, layer: Layer = None
) -> tuple[np.ndarray, np.ndarray]:
    """`extract_layers` of one layer: pooled features (examples, dim) float32, and labels (examples,)."""
    layers, labels = extract_layers(encoder, batches, layer=layer)
    (features,) = layers.values()
    return np.stack(features), labels


def pooled_features(encoder: PreTrainedModel, batch: Batch) -> Tensor:
    """The encoder's output pooled over real tokens, (batch, dim); what has a gradient keeps it."""
    hidden, real = hidden_layers(encoder, batch)
    return modality_of(encoder.config).pool(hidden["last"], real)


def hidden_layers(encoder: PreTrainedModel, batch: Batch, layer: Layer = None) -> tuple[dict[str, Tensor], Tensor]:
    """Hidden states (batch, time, dim) by layer, and which time steps are real, bool (batch, time)."""
    inputs = {
        name: value.to(encoder.device, encoder.dtype if value.is_floating_point() else None)
        for name, value in batch.items()
        if name != "labels"
    }
    output = encoder(**inputs, output_hidden_states=layer not in (None, "last"))
    hidden: dict[str, Tensor]
    if layer in (None, "last"):
        hidden = {"last": output.last_hidden_state}
    elif layer == "average":
        hidden = {"average": torch.stack(output.hidden_states).mean(0)}
    elif layer == "all":
        hidden = {f"layer_{number}": states for number, states in enumerate(output.hidden_states)}
    else:
        hidden = {f"layer_{layer}": output.hidden_states[layer]}
    time = next(iter(hidden.values())).shape[1]
    return hidden, modality_of(encoder.config).real_tokens(encoder, inputs, time)


def subset(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """All examples, or `most` of them drawn at random; each is read once."""
    if len(examples) <= most:
        return [examples[i] for i in range(len(examples))]
    drawn = np.random.default_rng(seed).choice(len(examples), most, replace=False)
    return [examples[int(i)] for i in np.sort(drawn)]


def batches_of(examples: Sequence[Example], collate: Collate, batch_size: int = 64) -> Iterator[Batch]:
    """The examples in order, the last batch as long as it is."""
    for start in range(0, len(examples), batch_size):
        yield collate([examples[i] for i in range(start, min(start + batch_size, len(examples)))])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every sub-module is in the mode it was in."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


def teacher_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The teacher of a pretraining model as an encoder of its own, in eval mode.

    The teacher lacks what it shares with the student (the convolutional front end, say), so this is a copy of the
    student's encoder with every tensor that the teacher has in place of the student's. It is the student where no
    teacher follows it.

    Raises:
        ValueError: the teacher has a tensor that the encoder has not.
    """
    encoder = cast(PreTrainedModel, copy.deepcopy(model.base_model))
    teacher = cast(nn.Module, model.teacher)
    objective: Any = model.objective
    own = objective.kind.has_teacher  # else it is another model, or there is none
    unknown = encoder.load_state_dict(teacher.state_dict() if own else {}, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"The encoder has nothing for the teacher's {unknown[:3]}: their structures differ.")
    return encoder.eval()


def untrained_encoder(config: Any, seed: int) -> PreTrainedModel:
    """An encoder with random weights, which follow from `seed`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder: PreTrainedModel = AutoModel.from_config(copy.deepcopy(config), trust_remote_code=False)
    return encoder.eval()


# Classifiers and regressions


@dataclass(frozen=True)
class Score:
    """Accuracies over draws of the labelled examples, 0 to 1."""

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Of the sample, n - 1."""
        return float(np.std(self.accuracies, ddof=1))


def knn_accuracy(train_x: Features, train_y: np.ndarray, test_x: Features, test_y: np.ndarray, k: int = 10) -> float:
    """Share of test examples whose k nearest training examples (cosine) vote for their class; ties: the lower label.

    Raises:
        ValueError: fewer than k training examples.
    """
    return float(_nearest(KNeighborsClassifier, k, train_x, train_y).score(test_x, test_y))


def knn_numbers(train_x: Features, train_y: np.ndarray, test_x: Features, k: int = 10) -> np.ndarray:
    """Mean number of the k nearest training examples (cosine) of each test example, (examples,) float64.

    Raises:
        ValueError: fewer than k training examples.
    """
    found: np.ndarray = _nearest(KNeighborsRegressor, k, train_x, train_y).predict(test_x)
    return found


def _nearest(kind: type[Any], k: int, train_x: Features, train_y: np.ndarray) -> Pipeline:
    if not 1 <= k <= len(train_y):
        raise ValueError(f"k = {k} neighbours of {len(train_y)} training examples: use 1 to {len(train_y)}.")
    return make_pipeline(_scaler(train_x), kind(k, metric="cosine")).fit(train_x, train_y)


def svm_accuracy(train_x: Features, train_y: np.ndarray, test_x: Features, test_y: np.ndarray) -> float:
    """Accuracy of a linear support vector machine on the features as they are, at Point2Vec's penalty."""
    return float(SVC(C=SVM_PENALTY, kernel="linear").fit(train_x, train_y).score(test_x, test_y))


@dataclass(frozen=True)
class LinearProbe:
    """Accuracies of a linear probe, 0 to 1, and the penalty (scikit-learn's C) that was chosen."""

    accuracy: float  # on the test examples
    validation_accuracy: float  # on the fifth of the training examples that chose the penalty
    penalty: float


def linear_probe(
    train_x: Features, train_y: np.ndarray, test_x: Features, test_y: np.ndarray, seed: int = 0
) -> LinearProbe:
    """A logistic regression whose penalty was chosen on a fifth of the training examples, then fitted on all.

    Raises:
        ValueError: that fifth cannot hold an example of every class.
    """
    counts = np.unique(train_y, return_counts=True)[1]
    if counts.min() < 2 or VALIDATION_SHARE * len(train_y) < len(counts):
        raise ValueError(
            f"A linear probe chooses its penalty on a fifth of the training examples: {len(train_y)} examples of "
            f"{len(counts)} classes, {counts.min()} of the rarest, are too few. Use 5 or more of each class."
        )
    validation = StratifiedShuffleSplit(1, test_size=VALIDATION_SHARE, random_state=seed)
    search = GridSearchCV(_logistic(train_x, 1.0), {"logisticregression__C": PENALTIES}, cv=validation)
    accuracy = float(search.fit(train_x, train_y).score(test_x, test_y))
    return LinearProbe(accuracy, float(search.best_score_), search.best_params_["logisticregression__C"])


@dataclass(frozen=True)
class RidgeProbe:
    """What a linear probe of numbers predicts, and the penalty (scikit-learn's alpha) that was chosen."""

    predictions: np.ndarray  # of the test examples, (examples,) or (examples, values) float64
    validation_r2: float  # on the fifth of the training examples that chose the penalty, the mean over values
    penalty: float


def ridge_probe(train_x: Features, train_y: np.ndarray, test_x: Features, seed: int = 0) -> RidgeProbe:
    """A ridge regression whose penalty was chosen on a fifth of the training examples, then fitted on all.

    Args:
        train_y: (examples,) or (examples, values) floats.

    Raises:
        ValueError: fewer than 10 training examples.
    """
    if len(train_y) < FEWEST_NUMBERS:
        raise ValueError(
            f"A linear probe chooses its penalty on a fifth of the training examples: {len(train_y)} examples are too "
            f"few. Use {FEWEST_NUMBERS} or more."
        )
    centre = train_y.mean(0, dtype=np.float64)  # years, say, would lose digits in the fp32 of the features
    validation = ShuffleSplit(1, test_size=VALIDATION_SHARE, random_state=seed)
    ridge = make_pipeline(_scaler(train_x), Ridge())
    search = GridSearchCV(ridge, {"ridge__alpha": RIDGE_PENALTIES}, scoring="r2", cv=validation)
    predictions = search.fit(train_x, train_y - centre).predict(test_x) + centre
    return RidgeProbe(predictions, float(search.best_score_), search.best_params_["ridge__alpha"])


def few_label_accuracy(
    train_x: Features,
    train_y: np.ndarray,
    test_x: Features,
    test_y: np.ndarray,
    labels_per_class: int = 10,
    draws: int = 5,
    seed: int = 0,
) -> Score:
    """Test accuracies of logistic regressions on a few labelled examples of each class, drawn several times.

    All training features, which need no label, give the standardisation. Raises as `draw_labelled`.
    """
    scaler = _scaler(train_x)
    if scaler is not None:
        train_x, test_x = scaler.fit_transform(train_x), scaler.transform(test_x)
    labelled, _ = draw_labelled(train_y, labels_per_class, draws, seed)
    classifier = _logistic(None, FEW_LABELS_PENALTY)
    return Score(tuple(float(classifier.fit(train_x[draw], train_y[draw]).score(test_x, test_y)) for draw in labelled))


class TooFewExamples(ValueError):
    """`asked` labelled examples of each class cannot be drawn: of class number `label` there are `there`."""

    def __init__(self, asked: int, label: int, there: int):
        super().__init__(
            f"labels_per_class = {asked} is invalid: of class {label} there are {there} training examples beside "
            f"the validation split. Use {there} or less, or more examples."
        )
        self.label, self.there = label, there


def draw_labelled(
    labels: np.ndarray, labels_per_class: int, draws: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Draws of `labels_per_class` examples per class, and the validation examples that no draw contains, as indices.

    Raises:
        TooFewExamples: a class has too few examples.
        ValueError: there are fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError(f"draws = {draws} is invalid: a spread over draws needs 2 or more.")
    held_out = min(round(VALIDATION_SHARE * len(labels)), VALIDATION_MOST)
    pool, validation = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=seed)
    classes, counts = np.unique(labels[pool], return_counts=True)
    if counts.min() < labels_per_class:
        raise TooFewExamples(labels_per_class, int(classes[counts.argmin()]), int(counts.min()))
    rng = np.random.default_rng(seed)
    members = [pool[labels[pool] == label] for label in classes]
    drawn = [
        np.concatenate([rng.choice(of_class, labels_per_class, replace=False) for of_class in members])
        for _ in range(draws)
    ]
    return drawn, validation


def _logistic(features: Features | None, penalty: float) -> Pipeline:
    scaler = None if features is None else _scaler(features)
    return make_pipeline(scaler, LogisticRegression(C=penalty, max_iter=1000))


def _scaler(features: Features) -> StandardScaler | None:
    return None if sparse.issparse(features) else StandardScaler()
