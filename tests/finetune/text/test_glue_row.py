"""The row of GLUE: which learning rate, what over seeds, what is averaged. Against numbers worked out by hand."""

import json

import pytest

from data2vec.finetune.text.glue_row import as_markdown, make_row, write_row
from data2vec.finetune.text.glue_tasks import AVERAGED, GLUE


def runs(scores: dict[str, dict[float, list[float]]]) -> dict:
    """task -> learning rate -> a score for each seed; MNLI's second split is 0.02 better."""
    made = {}
    for task, rates in scores.items():
        splits = GLUE[task].validation_splits
        made[task] = {
            rate: {seed: {s: {"score": v + 0.02 * i} for i, s in enumerate(splits)} for seed, v in enumerate(values)}
            for rate, values in rates.items()
        }
    return made


SCORES = {
    "rte": {1e-5: [0.60, 0.50, 0.70], 2e-5: [0.61, 0.59, 0.10]},
    "cola": {1e-5: [0.30, 0.31, 0.32], 2e-5: [0.40, 0.43, 0.41]},
}


def test_each_task_has_its_best_learning_rate_and_the_median_of_its_seeds():
    row = make_row(runs(SCORES), "median", shared_learning_rate=False)
    assert {task: found.learning_rate for task, found in row.tasks.items()} == {"rte": 1e-5, "cola": 2e-5}
    assert {task: found.score for task, found in row.tasks.items()} == {"rte": 0.60, "cola": 0.41}
    assert row.average == pytest.approx((0.60 + 0.41) / 2)


def test_means_choose_by_means():
    row = make_row(runs({"rte": {1e-5: [0.5, 0.5, 0.5], 2e-5: [0.6, 0.55, 0.1]}}), "mean", shared_learning_rate=False)
    assert (row.tasks["rte"].learning_rate, row.tasks["rte"].score) == (1e-5, 0.5)
    row = make_row(runs({"rte": {1e-5: [0.5, 0.5, 0.5], 2e-5: [0.6, 0.55, 0.1]}}), "median", False)
    assert (row.tasks["rte"].learning_rate, row.tasks["rte"].score) == (2e-5, 0.55)


def test_one_learning_rate_for_all_tasks_is_the_one_with_the_best_average():
    row = make_row(runs(SCORES), "median", shared_learning_rate=True)
    assert {found.learning_rate for found in row.tasks.values()} == {2e-5}  # 0.59 + 0.41 against 0.60 + 0.31
    assert row.tasks["rte"].score == 0.59
    with pytest.raises(ValueError, match="no learning rate was tried on every task"):
        make_row(runs({"rte": {1e-5: [0.5]}, "cola": {2e-5: [0.5]}}), "median", shared_learning_rate=True)


def test_mnli_counts_once_and_wnli_not_at_all():
    row = make_row(runs({"mnli": {1e-5: [0.80]}, "sst2": {1e-5: [0.90]}, "wnli": {1e-5: [0.1]}}), "median", False)
    assert row.tasks["mnli"].score == pytest.approx(0.81)
    assert row.average == pytest.approx((0.81 + 0.90) / 2)
    assert row.missing == ("QNLI", "RTE", "MRPC", "QQP", "STS-B", "CoLA")
    text = as_markdown(row)
    assert "80.0/82.0" in text and "Avg. of 2" in text and "WNLI" in text
    assert "Not run: QNLI, RTE, MRPC, QQP, STS-B, CoLA" in text


def test_a_whole_row_averages_eight_tasks_and_says_no_task_is_missing(tmp_path):
    every = {task: {1e-5: [0.5 + 0.01 * i]} for i, task in enumerate(AVERAGED)}
    row = make_row(runs(every), "median", shared_learning_rate=True)
    assert len(AVERAGED) == 8 and row.missing == ()
    # MNLI, the first, has a second split that is 0.02 better, so its mean is 0.01 better
    assert row.average == pytest.approx((sum(0.5 + 0.01 * i for i in range(8)) + 0.01) / 8)
    text = as_markdown(row)
    assert "Avg. |" in text and "Not run" not in text
    write_row(row, tmp_path)
    written = json.loads((tmp_path / "glue_row.json").read_text())
    assert written["average"] == row.average and written["tasks"]["rte"]["scores"] == {"1e-05": {"0": 0.52}}
    assert (tmp_path / "glue_row.md").read_text() == text


def test_a_row_without_runs_and_with_unfinished_ones():
    row = make_row({"rte": {1e-5: {}}}, "median", shared_learning_rate=True)
    assert row.tasks == {} and row.average is None and len(row.missing) == 8
    assert "Avg. of 0" in as_markdown(row)
