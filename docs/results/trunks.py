"""Runs of several modalities on one trunk, and their probes: for the claims `joint`, `forgetting` and `universal`.

Every encoder is read from the folder of a joint run, of one modality or of several, so that all arms have the same
trunk, settings and classifiers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from comparisons import Comparison, compare, spread
from experiment import HERE, Experiment, once, prepared, wall_seconds, yaml_word
from matplotlib.figure import Figure
from measure import accuracies, examples, pooled_layers, seconds
from transformers import PreTrainedModel, set_seed

from data2vec.modeling import JointModel
from data2vec.pretraining import run
from data2vec.pretraining.arguments import Run, override, read_recipe, resolve


SEEDS = (0, 1, 2)
SETS = {"audio": "spoken_digits", "image": "fashion_mnist", "text": "imdb_letters"}  # names of `prepare.PREPARE`
LABELS_PER_CLASS = {"audio": 10, "image": 10, "text": 50}
MEASURES = {"linear": "linear probe", "knn": "k-NN", "few": "few labels"}

Scores = dict[str, dict[str, float]]  # modality -> measure -> accuracy in %


@dataclass(frozen=True)
class TrunkRun(Experiment):
    """A joint run.

    Args:
        sets: which modalities of the recipe it has, and the data of each.
    """

    sets: Mapping[str, str] = field(default_factory=lambda: SETS)

    @property
    def folder(self) -> Path:
        whole = super().folder
        return whole.with_name(f"{whole.name}-{'-'.join(self.sets)}")

    def recipe(self, probe: str = "online") -> dict[str, Any]:
        """The recipe with the fields that its modalities have, the data and the seed."""
        found = read_recipe(HERE / "systems" / f"{self.system}.yaml")
        absent = tuple(f"modalities.{name}." for name in found["modalities"] if name not in self.sets)
        found["modalities"] = {name: found["modalities"][name] for name in self.sets}
        values: dict[str, Any] = {"training.output_dir": str(self.folder), "training.seed": self.seed}
        for name, of in self.sets.items():
            ready = prepared(of, self.data, self.runs)
            values[f"modalities.{name}.data.sources"] = [{"path": ready.source}]
            values[f"modalities.{name}.data.probe.path"] = str(ready.probes / probe)
            values[f"modalities.{name}.data.probe.validation_split"] = "test"  # as in experiment.py
        values |= {name: value for name, value in self.fields.items() if not name.startswith(absent)}
        return override(found, [word for name, value in values.items() for word in (f"--{name}", yaml_word(value))])

    def arguments(self, probe: str = "online") -> Run:
        return resolve(self.recipe(probe))

    def encoder(self, name: str) -> PreTrainedModel:
        encoder: PreTrainedModel = JointModel.from_pretrained(self.folder, modality=name)
        return encoder

    def untrained(self, name: str) -> PreTrainedModel:
        """The same network with random weights."""
        asked = self.arguments()
        set_seed(self.seed)
        encoder: PreTrainedModel = asked.model_class(asked.config).parts[name].base_model
        return encoder


def scores(encoder: PreTrainedModel, of: TrunkRun, name: str) -> dict[str, float]:
    """Classifiers on the mean of the frozen output; of a run, only the data of a modality is read."""
    train, test, collate = _labelled(name, of.system, of.sets[name], of.data, of.runs)
    (train_x, train_y), (test_x, test_y) = (pooled_layers(encoder, split, collate, "last") for split in (train, test))
    return accuracies(train_x[0], train_y, test_x[0], test_y, LABELS_PER_CLASS[name])


@cache
def _labelled(name: str, system: str, of: str, data: Path, runs: Path) -> tuple[Any, Any, Any]:
    alone = TrunkRun(system, {}, 0, data, runs, {name: of})
    opened = run.open_data(alone.arguments("test")).parts[name]
    return (*examples(opened), opened.probe_collator)


def trained(of: TrunkRun) -> dict[str, Any]:
    """Of a run that is trained and probed unless that was done: scores of each modality, and what they took."""
    of.pretrain()
    kept = of.folder.with_name(f"{of.folder.name}-scores.json")
    found = once(kept, lambda: {name: scores(of.encoder(name), of, name) for name in of.sets})
    took = {"training_seconds": round(seconds(of), 1), "wall_seconds": wall_seconds(of.folder) + found.pop("seconds")}
    return {"scores": found, **took}


def untrained(of: TrunkRun) -> dict[str, Any]:
    kept = of.folder.with_name(f"{of.folder.name}-untrained.json")
    found = once(kept, lambda: {name: scores(of.untrained(name), of, name) for name in of.sets})
    return {"scores": found, "wall_seconds": found.pop("seconds")}


def together(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Single runs as one row."""
    rows = list(rows)
    whole: dict[str, Any] = {"scores": {name: row["scores"][name] for row in rows for name in row["scores"]}}
    whole["training_seconds"] = {name: row["training_seconds"] for row in rows for name in row["scores"]}
    return whole | {"wall_seconds": sum(row["wall_seconds"] for row in rows)}


# ---- tables and pictures of arms, `{arm: [{"scores": Scores}, ...]}` ----


def mean(row: Mapping[str, Any]) -> float:
    """Of the linear probes of all modalities."""
    linear = [found["linear"] for found in row["scores"].values()]
    return sum(linear) / len(linear)


def compare_arms(arms: Mapping[str, Any], better: str, worse: str) -> list[Comparison]:
    """The mean of the modalities' linear probes, then each."""
    sides: dict[str, list[list[float]]] = {
        "mean of the modalities": [[*map(mean, arms[arm])] for arm in (better, worse)]
    }
    for name in arms[better][0]["scores"]:
        sides[name] = [[row["scores"][name]["linear"] for row in arms[arm]] for arm in (better, worse)]
    return [
        compare(f"{name}, linear probe: {better} {spread(one)}, {worse} {spread(other)}", one, other)
        for name, (one, other) in sides.items()
    ]


def table_of(arms: Mapping[str, Any]) -> str:
    """Markdown: mean (lowest to highest) of the seeds."""
    names = list(next(iter(arms.values()))[0]["scores"])
    columns = [(name, measure) for name in names for measure in MEASURES]
    heads = [f"{name}, {MEASURES[measure]}" for name, measure in columns]
    lines = ["| accuracy in % | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(columns)]
    for arm, rows in arms.items():
        cells = [spread([row["scores"][name][measure] for row in rows]) for name, measure in columns]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_arms(arms: Mapping[str, Any], path: Path) -> None:
    """A panel for each modality: arms from top to bottom, the bar is the mean, every seed a dot."""
    names = list(next(iter(arms.values()))[0]["scores"])
    figure = Figure(figsize=(4 * len(names), 0.4 * len(arms) + 1.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        for number, (arm, rows) in enumerate(arms.items()):
            colour = "#9a9a9a" if arm.endswith("untrained") else "#1f5fa8"
            values = [row["scores"][name]["linear"] for row in rows]
            axes.barh(number, sum(values) / len(values), color=colour, alpha=0.35)
            axes.plot(values, [number] * len(values), "o", color=colour, markersize=5)
        axes.set_yticks(range(len(arms)), list(arms))
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("linear probe, in %")
        axes.grid(alpha=0.3, axis="x")
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
