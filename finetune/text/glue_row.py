"""From the scores of a sweep's runs to the row that papers print: which learning rate, median over seeds, average.

Pure functions of numbers; `glue_sweep` makes the runs.
"""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ...pretraining.evaluation.report_text import markdown_table, percent
from .glue_tasks import AVERAGED, GLUE


Statistic = Literal["median", "mean"]
Splits = Mapping[str, Mapping[str, float]]  # development split -> metric -> value, with the task's "score"
Runs = Mapping[float, Mapping[int, Splits]]  # learning rate -> seed -> what a finished run measured
STATISTICS: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "mean": statistics.fmean}


@dataclass(frozen=True)
class TaskScore:
    """A task's part of the row, all scores in [-1, 1].

    Attributes:
        learning_rate: the chosen one.
        score: median or mean over seeds, there.
        splits: development split -> metric -> median or mean over seeds, there.
        scores: learning rate -> seed -> score, all runs.
    """

    learning_rate: float
    score: float
    splits: dict[str, dict[str, float]]
    scores: dict[float, dict[int, float]]

    @property
    def chosen(self) -> list[float]:
        return list(self.scores[self.learning_rate].values())


@dataclass(frozen=True)
class GlueRow:
    """What a sweep found, task by task.

    Attributes:
        average: unweighted mean over the tasks that papers count and that were run; None where none was.
        missing: titles of the tasks that papers count and that were not run.
    """

    tasks: dict[str, TaskScore]
    over_seeds: Statistic
    shared_learning_rate: bool
    average: float | None
    missing: tuple[str, ...]


def run_score(splits: Splits) -> float:
    """One number of a run: the mean over its development splits (MNLI has two) of the task's score."""
    return statistics.fmean(metrics["score"] for metrics in splits.values())


def make_row(runs: Mapping[str, Runs], over_seeds: Statistic, shared_learning_rate: bool) -> GlueRow:
    """Choose the learning rate on the development sets, as papers do, and summarise over seeds.

    Args:
        runs: task -> learning rate -> seed -> metrics; a learning rate may lack seeds that are not finished.
        over_seeds: data2vec 1 reports the mean of five runs, RoBERTa the median.
        shared_learning_rate: one for all tasks, with the best average (data2vec 1, section 4.3); else each task's
            best (data2vec 2.0's released sweep).

    Raises:
        ValueError: no learning rate was tried on all tasks, where one is to be shared.
    """
    summarise = STATISTICS[over_seeds]
    scores = {
        task: {
            rate: {seed: run_score(splits) for seed, splits in seeds.items()} for rate, seeds in rates.items() if seeds
        }
        for task, rates in runs.items()
    }
    scores = {task: rates for task, rates in scores.items() if rates}
    by_rate = {
        task: {rate: summarise(list(seeds.values())) for rate, seeds in rates.items()}
        for task, rates in scores.items()
    }
    chosen = {task: max(rates, key=lambda rate: rates[rate]) for task, rates in by_rate.items()}
    if shared_learning_rate and by_rate:
        common = set.intersection(*(set(rates) for rates in by_rate.values()))
        if not common:
            raise ValueError(
                "task.sweep.shared_learning_rate = True is invalid: no learning rate was tried on every task."
            )
        best = max(sorted(common), key=lambda rate: statistics.fmean(rates[rate] for rates in by_rate.values()))
        chosen = dict.fromkeys(by_rate, best)
    tasks = {
        task: TaskScore(
            chosen[task], by_rate[task][chosen[task]], _summary(runs[task], chosen[task], summarise), rates
        )
        for task, rates in scores.items()
    }
    averaged = [tasks[task].score for task in AVERAGED if task in tasks]
    missing = tuple(GLUE[task].title for task in AVERAGED if task not in tasks)
    average = statistics.fmean(averaged) if averaged else None
    return GlueRow(tasks, over_seeds, shared_learning_rate, average, missing)


def _summary(runs: Runs, rate: float, summarise: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    finished = list(runs[rate].values())
    return {
        split: {name: summarise([run[split][name] for run in finished]) for name in metrics}
        for split, metrics in finished[0].items()
    }


def as_markdown(row: GlueRow) -> str:
    """The row, and below it how it came about."""
    shown = [task for task in GLUE if task in row.tasks or GLUE[task].in_average]
    counted = len(AVERAGED) - len(row.missing)
    heads = [*(GLUE[task].title for task in shown), "Avg." if not row.missing else f"Avg. of {counted}"]
    cells = [*(_cell(row.tasks.get(task)) for task in shown), percent(row.average)]
    parts = ["# GLUE, development sets", markdown_table(heads, [cells])]
    if row.missing:
        parts.append(f"Not run: {', '.join(row.missing)}. The average is over the other {counted} tasks.")
    every = "one for all tasks, with the best average" if row.shared_learning_rate else "each task's best"
    parts.append(
        f"In %, {row.over_seeds} over seeds. MNLI: matched/mismatched accuracy. CoLA: Matthews correlation. MRPC and "
        "QQP: mean of accuracy and F1. STS-B: mean of Pearson and Spearman correlation. The others: accuracy. WNLI is "
        f"not in the average. Learning rate: {every}, chosen on these same development sets, so the scores are a "
        "little optimistic, as those in papers are."
    )
    chosen = [
        [
            *(GLUE[task].title, f"{of.learning_rate:g}", str(len(of.chosen))),
            *map(percent, (of.score, min(of.chosen), max(of.chosen))),
            _metrics(of),
        ]
        for task, of in row.tasks.items()
    ]
    heads = ["task", "learning rate", "seeds", "score", "lowest", "highest", "metrics"]
    parts.append(markdown_table(heads, chosen))
    rates = sorted({rate for of in row.tasks.values() for rate in of.scores})
    summarise = STATISTICS[row.over_seeds]
    by_rate = [
        [
            GLUE[task].title,
            *(percent(summarise(list(of.scores[rate].values())) if rate in of.scores else None) for rate in rates),
        ]
        for task, of in row.tasks.items()
    ]
    parts.append(
        markdown_table([f"{row.over_seeds} score by learning rate", *(f"{rate:g}" for rate in rates)], by_rate)
    )
    return "\n\n".join(parts) + "\n"


def write_row(row: GlueRow, folder: Path) -> None:
    """`glue_row.json` and `glue_row.md`."""
    content = asdict(row)
    for task, found in row.tasks.items():
        content["tasks"][task] |= {"median": statistics.median(found.chosen), "mean": statistics.fmean(found.chosen)}
    (folder / "glue_row.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "glue_row.md").write_text(as_markdown(row), encoding="utf-8")


def _cell(found: TaskScore | None) -> str:
    if found is None:
        return "-"
    several = len(found.splits) > 1
    return "/".join(percent(part["score"]) for part in found.splits.values()) if several else percent(found.score)


def _metrics(found: TaskScore) -> str:
    parts = []
    for split, metrics in found.splits.items():
        where = f" ({split.removeprefix('validation_')})" if len(found.splits) > 1 else ""
        parts += [f"{name} {percent(value)}{where}" for name, value in metrics.items() if name != "score"]
    return ", ".join(parts)
