"""The metrics of probes: accuracy for classes, R² for numbers. What a score is called, how it is written and drawn."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProbeMetric:
    """How scores, 1.0 at best, are shown.

    Attributes:
        called: the name of the metric.
        unit: behind the name in headings, "" where there is none.
        scale, digits: a score is written times `scale`, with so many digits behind the point.
        sentence: a written score in a sentence, at `{}`.
        floor: the lowest score that an axis shows. R² has no lower limit, and one bad layer would flatten the others.
        baseline: the answer that knows nothing about the input.
        note: what a reader of a table has to know.
    """

    called: str
    unit: str
    scale: float
    digits: int
    sentence: str
    floor: float
    baseline: str
    note: str

    @property
    def heading(self) -> str:
        return f"{self.called} in {self.unit}" if self.unit else self.called

    def written(self, score: float | None) -> str:
        """A cell of a table; "-" where nothing was measured."""
        return "-" if score is None else f"{self.scale * score:.{self.digits}f}"

    def said(self, score: float) -> str:
        return self.sentence.format(self.written(score))

    def limits(self, bottom: float, top: float) -> tuple[float, float]:
        """Those of an axis that would go from `bottom` to `top`, in written scores."""
        return max(bottom, self.scale * self.floor), self.scale * max(0.01, min(top / self.scale, 1.01))


METRICS = {  # by their names in results.json
    "accuracy": ProbeMetric(
        called="Accuracy",
        unit="%",
        scale=100.0,
        digits=1,
        sentence="{} %",
        floor=0.0,
        baseline="most frequent class",
        note="Accuracy in %.",
    ),
    "r2": ProbeMetric(
        called="R²",
        unit="",
        scale=1.0,
        digits=3,
        sentence="R² {}",
        floor=-0.5,
        baseline="mean",
        note="R² is the share of the variance that is explained. Below 0, always answering with the mean is better.",
    ),
}
