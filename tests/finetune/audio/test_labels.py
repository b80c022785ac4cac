"""Several labels a clip: from names to vectors, and what is refused."""

import datasets
import numpy as np
import pytest

from data2vec.finetune.audio.labels import encode_labels


def rows(labels, feature=None):
    features = None if feature is None else datasets.Features({"label": feature})
    return datasets.Dataset.from_dict({"label": labels}, features=features)


def test_lists_of_names_become_vectors_of_trains_classes():
    splits = {"train": rows([["dog", "rain"], ["cat"], []]), "test": rows([["rain"]])}
    targets, names = encode_labels(splits)
    assert names == ("cat", "dog", "rain")
    np.testing.assert_array_equal(targets["train"], [[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(targets["test"], [[0, 0, 1]])
    assert targets["test"].dtype == np.float32


def test_numbered_classes_and_separated_text():
    numbered = datasets.List(datasets.ClassLabel(names=["b", "a", "never"]))
    targets, names = encode_labels({"train": rows([[1], [0, 1]], numbered)})
    assert names == ("b", "a", "never")
    np.testing.assert_array_equal(targets["train"], [[0, 1, 0], [1, 1, 0]])
    targets, names = encode_labels({"train": rows(["Speech, Music", "Music", ""])}, separator=",")
    assert names == ("Music", "Speech")
    np.testing.assert_array_equal(targets["train"], [[1, 1], [1, 0], [0, 0]])


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": rows([["a"]]), "test": rows([["a"], ["a", "b"]])}, "data.test, row 1 has label 'b', which is none"),
        ({"train": rows([["a"], None])}, "data.train, row 1 has no labels"),
        ({"train": rows(["a", "b"])}, "data.train: .* the label column holds string: .* set data.label_separator"),
        ({"train": rows([0.5])}, "data.train: task.multi_label = true needs a list"),
    ],
)
def test_what_cannot_be_labels_is_named(splits, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(splits)
