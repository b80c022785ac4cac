"""What may stand in a card: numbers of the run folder, and no folder of anybody's machine."""

import pytest

from data2vec.model_cards.card.recorded_numbers import unrecorded
from data2vec.model_cards.strip_paths import without_places


RECORDED = (
    {"accuracy": 0.38366, "steps": 1600, "rate": 4.878e-4, "on": True, "note": "torch 2.13.0+cpu, 10 a class"},
    [{"seconds": 9117.0}, {"loss": -2.163}],
)


@pytest.mark.parametrize(
    "text",
    [
        "38.4 % and 0.3837, 1,600 or 1600 updates, 4.88e-04, 0.00049",
        "9117 s, a loss of 2.16",
        "with 10 labels per class on torch 2.13.0",
        "data2vec 2.0 and data2vec 1, `anything 99.9` in code, https://hub/99, [link](page99.html)",
        "```python\nx = 99\n```",
        "no number; v3x, a4 and w2v2 are words",
    ],
)
def test_numbers_of_the_folder(text):
    assert unrecorded(text, *RECORDED) == []


@pytest.mark.parametrize(
    "text, missing",
    [
        ("38.5 %", ["38.5"]),
        ("0.384 and 0.385", ["0.385"]),
        ("1,601 updates of 1,600", ["1601"]),
        ("data2vec 3 with 99.3 % (+13.3)", ["3", "99.3", "13.3"]),
        ("torch 2.13.1", ["2.13.1"]),
        ("5.88e-04", ["5.88e-04"]),
        ("1 of True, 2 hours, 152 minutes", ["1", "2", "152"]),
    ],
)
def test_other_numbers(text, missing):
    assert unrecorded(text, *RECORDED) == missing


@pytest.mark.parametrize(
    "text, left",
    [
        ("run.py --sources '[{path: ../shared/clips}]' --output_dir runs/mine", None),
        ("path: /home/me/my clips/of today/wav\nnext: ~/x/y.txt", "path: wav\nnext: y.txt"),
        ('"model": "/a/b/c", see https://host.org/a/b/c and and/or 3/4 or /word', None),
        ("/w/d2v/run.py demo.yaml --output_dir runs/x", "run.py demo.yaml --output_dir runs/x"),
        ("/w/d2v/run.py recipes/x.yaml --d '/home/me/my clips/a'", "run.py recipes/x.yaml --d 'a'"),
    ],
)
def test_places(text, left):
    expected = left or text.replace("../shared/clips", "clips").replace('"/a/b/c"', '"c"')
    assert without_places(text) == expected
