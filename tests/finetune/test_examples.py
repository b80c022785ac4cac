"""Labelled examples, their classes, and which of them are held out or drawn."""

import datasets
import numpy as np
import pytest
from sklearn.datasets import load_digits

from data2vec.finetune.data_arguments import FineTuneDataArguments
from data2vec.finetune.examples import Examples
from data2vec.finetune.labels import draw_per_class, hold_out, labelled_examples
from data2vec.pretraining.data.labels import number_labels
from data2vec.pretraining.data.modality import BadExample


LABELS = load_digits().target  # 1797 rows, 10 classes of about 180


def read(row, rng):
    if row % 7 == 3:
        raise BadExample(f"file {row} is broken: fix it.")
    return {"value": row, "drawn": None if rng is None else rng.integers(10**9)}


def table(labels, **features):
    columns = {"image": [str(i) for i in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(columns, **features)


def test_an_example_is_a_function_of_seed_epoch_and_row():
    make = lambda seed, keep=None: Examples(range(3), read, name="train", seed=seed, augment=True, keep=keep)  # noqa: E731
    one, other = make(5), make(6)
    assert one[(2, 1)] == make(5)[(2, 1)] == {**one[(2, 1)], "epoch": 2, "index": 1}
    assert len({int(one[(epoch, 1)]["drawn"]) for epoch in range(5)} | {int(other[(0, 1)]["drawn"])}) == 6
    assert one[1] == one[(0, 1)]
    assert make(5, keep=[1, 2])[(2, 0)]["drawn"] == one[(2, 1)]["drawn"]  # the row counts, not its place
    assert Examples(range(3), read, name="test", seed=5)[1]["drawn"] is None


def test_a_bad_row_is_named_or_left_out(caplog):
    with pytest.raises(BadExample, match=r"data.validation, row 3: file 3 is broken: fix it. With data.skip_bad"):
        Examples(range(20), read, name="validation", seed=0)[3]
    with caplog.at_level("WARNING", logger="data2vec"):
        kept = Examples(range(20), read, labels=np.arange(20), name="train", seed=0, skip_bad=True, num_proc=2)
    assert [example["value"] for example in (kept[i] for i in range(len(kept)))] == [
        i for i in range(20) if i not in (3, 10, 17)
    ]
    assert kept.labels is not None and kept.labels.tolist() == kept.kept.tolist()
    assert kept.left_out == {"unreadable": 3} and "row 17 is left out" in caplog.text
    with pytest.raises(ValueError, match="data.test has no usable example"):
        Examples([3, 10], lambda row, rng: read(row, rng), name="test", seed=0, skip_bad=True)


def test_rows_known_to_be_bad_are_named_or_left_out(caplog):
    bad = {4: BadExample("it has no label.", "no label"), 2: BadExample("it is empty.", "empty")}
    with pytest.raises(BadExample, match="data.test, row 2: it is empty. 2 of 9 rows cannot be used. With data.skip"):
        Examples(range(9), lambda row, rng: {}, name="test", seed=0, bad=bad)
    with caplog.at_level("WARNING", logger="data2vec"):
        kept = Examples(range(9), read, name="test", seed=0, bad=bad, skip_bad=True, checked=True)
    assert kept.kept.tolist() == [0, 1, 3, 5, 6, 7, 8]  # 3 cannot be read, which nobody has asked
    assert kept.left_out == {"no label": 1, "empty": 1} and "1 of 9 rows are left out: no label" in caplog.text


def test_a_draw_holds_the_smaller_one_and_follows_from_the_seed():
    names = [str(i) for i in range(10)]
    few, more, other = (draw_per_class(LABELS, count, names, seed) for count, seed in ((3, 1), (11, 1), (11, 2)))
    assert np.bincount(LABELS[few]).tolist() == [3] * 10 and np.bincount(LABELS[more]).tolist() == [11] * 10
    assert set(few) < set(more) and set(more) != set(other)
    with pytest.raises(ValueError, match=r"labels_per_class = 175 is invalid: of class '8' there are 174"):
        draw_per_class(LABELS, 175, names, 0)


def test_a_held_out_share_has_every_class_and_no_row_twice():
    rest, held_out = hold_out(len(LABELS), 0.2, 3, LABELS)
    assert sorted([*rest, *held_out]) == list(range(len(LABELS)))
    counts = np.bincount(LABELS[held_out])
    np.testing.assert_allclose(counts / np.bincount(LABELS), 0.2, atol=0.005)


def test_labels_per_class_and_validation_share_together():
    """Validation is held out first, is read without augmentation, and shares no row with the few in train."""
    args = FineTuneDataArguments(train={"path": "x"}, validation_share=0.3, labels_per_class=5)
    splits = {"train": table(LABELS.tolist()), "test": table([1, 2])}
    labels = number_labels(splits)
    train, evaluation = labelled_examples(args, splits, labels, lambda row, rng: {"rng": rng}, seed=0)
    assert list(evaluation) == ["validation", "test"] and len(train) == 50
    assert not set(train.kept) & set(evaluation["validation"].kept)
    assert train[0]["rng"] is not None and evaluation["validation"][0]["rng"] is None
    for examples in (train, evaluation["validation"]):
        assert [examples[i]["labels"] for i in range(30)] == LABELS[examples.kept[:30]].tolist()
