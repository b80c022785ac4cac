"""What the values of a label column mean, as a table of cases."""

import datasets
import numpy as np
import pytest

from data2vec.pretraining.data.labels import encode_label_lists, holds_decimals, number_labels, read_numbers


AB = datasets.ClassLabel(names=["a", "b"])
BA = datasets.ClassLabel(names=["b", "a"])
BAD = -1  # what the tables call a row that is refused


def column(values, feature=None):
    features = None if feature is None else datasets.Features({"label": feature})
    return datasets.Dataset.from_dict({"label": values}, features=features)


def splits_of(train, test=None):
    given = {"train": train} if test is None else {"train": train, "test": test}
    return {
        split: column(values) if isinstance(values, list) else column(values[0], values[1])
        for split, values in given.items()
    }


def read(labels, split):
    """The rows' numbers, with BAD for what is refused."""
    return [BAD if row in labels.bad[split] else number for row, number in enumerate(labels.numbers[split].tolist())]


@pytest.mark.parametrize(
    ("train", "test", "names", "expected"),
    [
        (["dog", "ant", "dog"], ["dog", "cat"], ["ant", "dog"], [1, BAD]),
        ([0, 2, 4], [4, 1, 2], ["0", "2", "4"], [2, BAD, 1]),  # a gap: 1 is no class, and not the second one
        ([10, 9, 30], [9], ["9", "10", "30"], [0]),  # by size, not by spelling
        (["10", "9"], [9, 10], ["9", "10"], [0, 1]),  # text in one file, numbers in another
        ([1, 0, -1], [-1, 1], ["-1", "0", "1"], [0, 2]),  # sentiment: -1 is a class like any other
        ([1, 0], [-1, 1], ["0", "1"], [BAD, 1]),  # and where train has none, the sign of no label
        ([0.0, 1.0, float("nan")], [1, 0], ["0", "1"], [1, 0]),  # whole numbers that a gap has made floats
        ([0, 1], [1.0, 0.5, float("inf")], ["0", "1"], [1, BAD, BAD]),
        ([True, False], [True], ["False", "True"], [1]),
        ([True, False], [1], ["False", "True"], [BAD]),
        (["007", "7"], ["7", "007"], ["007", "7"], [1, 0]),
        (["null", "None", "NA"], ["NA"], ["NA", "None", "null"], [0]),  # words
        (["a", None, "", " ", "b"], ["b", ""], ["a", "b"], [1, BAD]),
        (([0, 1, -1], AB), ([1, 0, -1], AB), ["a", "b"], [1, 0, BAD]),
        (([0, 1], AB), ([0, 1], BA), ["a", "b"], [1, 0]),  # the same classes in another order
        (([0, 0], AB), ["b"], ["a", "b"], [1]),  # a class without a training row, and named in text
    ],
)
def test_classes(train, test, names, expected):
    labels = number_labels(splits_of(train, test))
    assert list(labels.names) == names and read(labels, "test") == expected


@pytest.mark.parametrize(
    ("given", "values", "expected"),
    [
        (["no", "yes"], [1, 0, 2, -1], [1, 0, BAD, BAD]),  # given names may go by their number
        (["no", "yes"], ["1", "yes"], [1, 1]),
        (["no", "yes"], [0.0, 1.0], [0, 1]),
        (["0", "2", "4"], [2, 1], [1, BAD]),  # numbers that are names are not also places
        (["b", "a"], ([0, 1], AB), [1, 0]),
    ],
)
def test_given_names(given, values, expected):
    assert read(number_labels(splits_of(values), given), "train") == expected


def test_numbers():
    values = [-1.0, 0.0, 2.5, None, float("nan")]
    labels = read_numbers({"train": column(values), "test": column([-1.0, -1.0]), "other": column([-1.0, 3.0])})
    assert labels.numbers["train"][:3].tolist() == [-1.0, 0.0, 2.5] and set(labels.bad["train"]) == {3, 4}
    assert labels.none_in("test") and read(labels, "other") == [-1.0, 3.0] and labels.names == ()
    strings = read_numbers({"train": column(["0.5", "-1", "", "inf", "good"])})
    assert strings.numbers["train"][:2].tolist() == [0.5, -1.0]
    assert {row: error.problem for row, error in strings.bad["train"].items()} == {
        2: "no label",
        3: "unknown label",
        4: "unknown label",
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 1.0], True),
        ([0.0, 1.0], True),
        ([0, 1], False),
        ([True, False], False),
        (["0.5", "2", "-1e-3", ""], True),
        (["0", "1", "-1"], False),
        (["007", "12"], False),
        (["nan", "inf"], False),
        (["1.5", "null"], False),
        ([*map(str, range(8)), "0.5", "nan", "nan"], True),  # and two rows without a label
        ([*map(str, range(7)), "0.5", "n/a"], False),
        (["1.2.3", "1.5"], False),
        (["", None], False),
    ],
)
def test_decimals_are_numbers_to_be_predicted(values, expected):
    assert holds_decimals(column(values)) == expected


def test_lists_of_classes():
    labels = encode_label_lists(splits_of([["dog", "rain"], ["cat"], []], [["rain"], ["cow", "dog"], None]))
    assert labels.names == ("cat", "dog", "rain") and labels.numbers["test"].dtype == np.float32
    assert labels.numbers["train"].tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert labels.numbers["test"][0].tolist() == [0, 0, 1]
    assert {row: error.problem for row, error in labels.bad["test"].items()} == {1: "unknown label", 2: "no label"}
    labels = encode_label_lists(splits_of(([[1], [0, 1]], datasets.List(datasets.ClassLabel(names=["b", "a", "c"])))))
    assert labels.names == ("b", "a", "c") and labels.numbers["train"].tolist() == [[0, 1, 0], [1, 1, 0]]
    labels = encode_label_lists(splits_of(["Speech, Music", "Music", ""]), separator=",")
    assert labels.names == ("Music", "Speech") and labels.numbers["train"].tolist() == [[1, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize("values", [["a", "b"], [0.5]])
def test_what_holds_no_lists_is_refused(values):
    with pytest.raises(ValueError, match="data.train: task.multi_label = true needs a list of labels in every row"):
        encode_label_lists(splits_of(values))


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (["a", "b", None], [], "data.probe, train, row 2: it has no label: add one"),
        (["a", "b"], ["a", "c"], "data.probe, test, row 1: its label 'c' is not one of a, b: correct it"),
        ([[0], [1]], [], "data.train holds 0 classes, no labels at all"),
        (["a", "a"], [], "data.train holds 1 class, a: set data.train.label_column"),
        ([None, None], [], "data.train holds 0 classes, no labels at all"),
        (["0.5", "1.5", "2", ""], ["2"], "data.train: the labels are numbers with decimals, not classes"),
    ],
)
def test_messages(train, test, words):
    with pytest.raises(ValueError, match=words):
        number_labels(splits_of(train, test or None)).refuse_bad("data.probe")
