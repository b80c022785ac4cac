"""benchmarks/points.py: what it measures, and its table."""

from points import measure, table

from tests.modeling.tiny_point2vec import points_config


def test_grouping_and_encoder_are_measured():
    assert all(seconds > 0 for seconds in measure(101, batch=2, repetitions=2, config=points_config()))


def test_the_table_shows_how_time_grows():
    rows = table([1000, 2000, 8000], [(0.001, 0.1), (0.002, 0.4), (0.008, 0.4)]).splitlines()[2:]
    assert rows[1] == "| 2,000 | 2 | 1.00 | 400 | 2.00 |"
    assert rows[2] == "| 8,000 | 8 | 1.00 | 400 | 0.00 |"
