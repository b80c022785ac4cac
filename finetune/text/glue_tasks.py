"""The tasks of GLUE (Wang et al. 2018): their columns, labels, metrics and what a submission looks like.

Columns and the order of labels are those of the Hub's `nyu-mll/glue`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GlueTask:
    """One row of the table.

    Attributes:
        name: configuration of the Hub's dataset, and the folder of a local copy.
        title: what papers print and what a submitted file is called.
        text_columns: one, or the two of a pair.
        labels: by number; none: a score from 0 to 5 is predicted.
        metrics: what papers report; where there are two, their unweighted mean (arXiv 2202.03555, table 4).
        submits: what a submitted row holds: the label's number, its name, or the predicted score.
        parts: what the names of development and test split end with, where there are several.
        in_average: whether papers count it; WNLI is left out since BERT (its test set is an adversarial split).
    """

    name: str
    title: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    submits: Literal["number", "name", "score"] = "number"
    parts: tuple[str, ...] = ("",)
    in_average: bool = True

    @property
    def validation_splits(self) -> tuple[str, ...]:
        return tuple(f"validation{part}" for part in self.parts)

    @property
    def test_splits(self) -> tuple[str, ...]:
        return tuple(f"test{part}" for part in self.parts)

    def submission_file(self, test_split: str) -> str:
        """What the benchmark's site expects the predictions of a test split to be called."""
        short = {"test_matched": "-m", "test_mismatched": "-mm"}
        return f"{self.title}{short.get(test_split, '')}.tsv"

    def submitted(self, prediction: float) -> str:
        """One prediction as the benchmark's site reads it."""
        if self.submits == "score":
            return f"{min(max(prediction, 0.0), 5.0):.3f}"
        return self.labels[int(prediction)] if self.submits == "name" else str(int(prediction))


SENTENCES = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
ACCURACY_AND_F1 = ("accuracy", "f1")

# In the order of the papers' tables.
GLUE: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "mnli",
            "MNLI",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            submits="name",
            parts=("_matched", "_mismatched"),
        ),
        GlueTask("qnli", "QNLI", ("question", "sentence"), ENTAILMENT, submits="name"),
        GlueTask("rte", "RTE", SENTENCES, ENTAILMENT, submits="name"),
        GlueTask("mrpc", "MRPC", SENTENCES, ("not_equivalent", "equivalent"), ACCURACY_AND_F1),
        GlueTask("qqp", "QQP", ("question1", "question2"), ("not_duplicate", "duplicate"), ACCURACY_AND_F1),
        GlueTask("stsb", "STS-B", SENTENCES, (), ("pearson", "spearman"), submits="score"),
        GlueTask("cola", "CoLA", ("sentence",), ("unacceptable", "acceptable"), ("matthews_correlation",)),
        GlueTask("sst2", "SST-2", ("sentence",), ("negative", "positive")),
        GlueTask("wnli", "WNLI", SENTENCES, ENTAILMENT[::-1], in_average=False),
    )
}
AVERAGED = tuple(task.name for task in GLUE.values() if task.in_average)
