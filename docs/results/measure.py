"""What an encoder knows: classifiers on the frozen features of every layer, and fine-tuning from few labels.

Accuracies in %, on the test examples of `prepare.py`. The penalty of a linear probe and the learning rate of
fine-tuning are chosen on a part of the labelled training examples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from experiment import SYSTEMS, Experiment, once
from transformers import AutoModel, PreTrainedModel, set_seed

from data2vec.pretraining import run
from data2vec.pretraining.evaluation.fine_tuning import fine_tune_accuracy
from data2vec.pretraining.evaluation.probe import (
    batches_of,
    evaluating,
    extract_features,
    extract_layers,
    few_label_accuracy,
    hidden_layers,
    knn_accuracy,
    linear_probe,
    teacher_encoder,
)
from data2vec.pretraining.evaluation.raw_features import raw_features
from data2vec.pretraining.modalities.build import PretrainingData, modality_of


ENCODERS = ("student", "teacher", "untrained")
DRAWS = 5  # of the few labels
FINE_TUNE_DRAWS, FINE_TUNE_STEPS, FINE_TUNE_RATES = 2, 60, (1e-3, 3e-3)
FINE_TUNE_TEST = 1000  # examples
HEALTH = ("loss", "target_std", "prediction_std", "position_std", "effective_rank")


def measured(
    experiment: Experiment, encoders: Iterable[str] = ENCODERS, *, layers: str = "last", fine_tune: bool = False
) -> dict[str, Any]:
    """Everything that was asked, measured once and kept beside the run folder.

    Args:
        encoders: of `ENCODERS`; `untrained` is the same network with its initial weights.
        layers: `last`, `all` for a list of accuracies from the embedding to the last block, or `tokens`, which adds
            those on the mean of the last layer's extra tokens (CLS), `cls_linear` and so on.
        fine_tune: also fine-tune the student and the untrained network from few labels.

    Returns:
        {encoder: {"linear", "validation", "knn", "few"}}, each a number or a list of all layers, of which `best` is
        the linear probe of the layer that is best on validation; {"fine_tuned": {"student", "untrained"}}. In each
        `seconds`, that it took.
    """
    found = {}
    labelled = cache(lambda: Data(experiment))  # opened once, where something is left to measure
    for encoder in [*encoders, *["fine_tuned"] * fine_tune]:
        # what an arm changes is not in the untrained encoder, which is measured once for all arms
        of = replace(experiment, fields={}) if encoder == "untrained" else experiment

        def measure(which: str = encoder) -> dict[str, Any]:
            return labelled().fine_tuned() if which == "fine_tuned" else labelled().frozen(which, layers)

        found[encoder] = once(of.folder.with_name(f"{of.folder.name}-{encoder}-{layers}.json"), measure)
    return found


def health(experiment: Experiment) -> dict[str, list[float]]:
    """What was logged, as columns: `step` and those of `HEALTH`."""
    rows = [row for row in experiment.log() if "target_std" in row]
    return {name: [round(row[name], 4) for row in rows] for name in ("step", *HEALTH)}


def seconds(experiment: Experiment) -> float:
    """Training time: no probes, no saving, no set-up."""
    return max(row["training_seconds"] for row in experiment.log() if "training_seconds" in row)


class Data:
    """The labelled examples of an experiment, and its encoders on them."""

    def __init__(self, experiment: Experiment):
        self.experiment, self.labels_per_class = experiment, SYSTEMS[experiment.system].labels_per_class
        self.asked = experiment.arguments("test")
        self.data = run.open_data(self.asked)
        self.train, self.test = examples(self.data)

    def encoder(self, which: str) -> PreTrainedModel:
        folder = self.experiment.folder
        if which == "student":
            return AutoModel.from_pretrained(folder)
        if which == "teacher":
            return teacher_encoder(self.asked.model_class.from_pretrained(folder / "pretraining"))
        set_seed(self.asked.training.seed)
        return self.asked.model_class(self.asked.config).base_model

    def frozen(self, which: str, layers: str) -> dict[str, Any]:
        encoder = self.encoder(which)
        (train_x, train_y), (test_x, test_y) = (
            pooled_layers(encoder, split, self.data.probe_collator, layers) for split in (self.train, self.test)
        )
        pairs = zip(train_x, test_x, strict=True)
        rows = [accuracies(x, train_y, y, test_y, self.labels_per_class) for x, y in pairs]
        if layers == "last":
            return rows[0]
        if layers == "tokens":
            train_x, test_x = (
                token_features(encoder, part, self.data.probe_collator) for part in (self.train, self.test)
            )
            of_tokens = accuracies(train_x, train_y, test_x, test_y, self.labels_per_class)
            return rows[0] | {f"cls_{name}": value for name, value in of_tokens.items()}
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        return columns | {"best": columns["linear"][int(np.argmax(columns["validation"]))]}

    def fine_tuned(self) -> dict[str, float]:
        """Test accuracy from few labels, mean of the draws, of the network from both starts."""
        found = {}
        for which in ("student", "untrained"):
            score = fine_tune_accuracy(
                self.encoder(which),
                self.train,
                self.test[:FINE_TUNE_TEST],
                self.data.probe_collator,
                int(max(example["labels"] for example in self.train)) + 1,
                labels_per_class=self.labels_per_class,
                steps=FINE_TUNE_STEPS,
                learning_rates=FINE_TUNE_RATES,
                draws=FINE_TUNE_DRAWS,
                seed=self.experiment.seed,
            )
            found[which] = percent(score.mean)
        return found


def raw(experiment: Experiment) -> dict[str, Any]:
    """The same classifiers on features that need no network, pixels or log-mel energies, and `seconds`.

    Measured once for all systems of a data set, and kept in the folder of the runs.
    """

    def measure() -> dict[str, Any]:
        labelled = Data(experiment)
        train, test = labelled.train, labelled.test
        labels = [np.array([example["labels"] for example in split]) for split in (train, test)]
        features = raw_features(modality_of(labelled.asked.config), train, test)
        return {
            kind: accuracies(x, labels[0], y, labels[1], labelled.labels_per_class)
            for kind, (x, y) in features.items()
        }

    return once(experiment.runs / f"raw-{SYSTEMS[experiment.system].data}.json", measure)


def examples(data: PretrainingData) -> list[list[Mapping[str, Any]]]:
    return [[split[i] for i in range(len(split))] for split in (data.probe_train, data.probe_test)]


def pooled_layers(
    encoder: PreTrainedModel, split: Sequence[Any], collate: Any, layers: str = "all"
) -> tuple[list[np.ndarray], np.ndarray]:
    """Features of `all` layers or of the `last`, averaged over real tokens, (examples, dim) each, and the labels.

    The first is the embedding, the last the encoder's output, behind the final norm where it has one.
    """
    last, labels = extract_features(encoder, batches_of(split, collate))
    if layers != "all":
        return [last], labels
    states, _ = extract_layers(encoder, batches_of(split, collate))
    return [*(np.stack(layer) for layer in list(states.values())[:-1]), last], labels


@torch.no_grad()
def token_features(encoder: PreTrainedModel, split: Sequence[Any], collate: Any) -> np.ndarray:
    """The mean of the encoder's extra tokens, (examples, dim)."""
    extra, found = encoder.config.num_extra_tokens, []
    with evaluating(encoder):
        for batch in batches_of(split, collate):
            found.append(hidden_layers(encoder, batch)[0]["last"][:, :extra].mean(1))
    return torch.cat(found).numpy()


def accuracies(
    train_x: Any, train_y: np.ndarray, test_x: Any, test_y: np.ndarray, labels_per_class: int
) -> dict[str, float]:
    """Linear probe, k-NN and a classifier on few labels, in %; `validation` is the linear probe's own."""
    few = few_label_accuracy(train_x, train_y, test_x, test_y, labels_per_class, DRAWS)
    probe = linear_probe(train_x, train_y, test_x, test_y)
    return {
        "linear": percent(probe.accuracy),
        "validation": percent(probe.validation_accuracy),
        "knn": percent(knn_accuracy(train_x, train_y, test_x, test_y)),
        "few": percent(few.mean),
    }


def percent(share: float) -> float:
    return round(100 * share, 2)
