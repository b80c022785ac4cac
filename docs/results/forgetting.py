"""The claim `forgetting` of reproduce.py: what do stages forget, and what does a buffer keep?

    spoken digits  ->  X-rays  ->  letters, on one trunk by `stages`, by kind of rehearsal   against   a joint run

The first stage is the same run for all. A new modality has as many updates in every arm; those on buffers come on top.
What is forgotten is a probe's accuracy right after a modality's own stage less that at the end.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from comparisons import Comparison, compare, spread
from experiment import once
from matplotlib.figure import Figure
from trunks import TrunkRun, mean, scores, trained, untrained

from data2vec.modeling import JointModel
from data2vec.pretraining import run
from data2vec.pretraining.recipe import STAGES
from data2vec.pretraining.stages import BUFFERS


CLAIM = "Stages forget, and a buffer with distillation keeps what they learned"
PAPER = (
    "MedCoSS, mean of nine tasks as a later paper reprints it: stages with buffer, distillation and mixup 89.0, joint "
    "87.7, plain replay 85.5"
)
SEEDS = (0, 1, 2)
SETS = {"audio": "spoken_digits", "image": "x_rays", "text": "imdb_letters_few"}  # in the order of the stages
UPDATES = {"audio": 1000, "image": 600, "text": 600}  # of each as the new one, and of each in the joint run
WEIGHTS = {"audio": 1.0, "image": 3.0, "text": 6.0}  # so that the last two have 3 of 4 and 6 of 10 of their stages
WITH_BUFFER = {"audio": 1000, "image": 800, "text": 1000}
NONE, PRETEXT, DISTILLATION = "no buffer", "buffer, pretext replay", "buffer, distillation"
MIXUP, JOINT = "buffer, distillation, mixup", "joint"
REHEARSAL: dict[str, dict[str, Any]] = {
    DISTILLATION: {"rehearsal": "distillation"},  # first: the others copy its first stage
    NONE: {"rehearsal": "none"},
    PRETEXT: {"rehearsal": "pretext"},
    MIXUP: {"rehearsal": "distillation", "mixup": True},
}
FIELDS = {"modalities.image.data.image_mean": [0.564], "modalities.image.data.image_std": [0.174]}


def evaluate(data: Path, runs: Path, seeds: tuple[int, ...] = SEEDS, **changes: Any) -> dict[str, Any]:
    """Everything that data/forgetting.json holds; `changes` are fields of every recipe."""
    arms: dict[str, list[Any]] = {}
    for seed in seeds:
        for arm, row in _rows(data, runs, seed, changes):
            arms.setdefault(arm, []).append({"seed": seed, **row})
            print(f"forgetting, {arm}, seed {seed}: {json.dumps(row)}", flush=True)
    wall = sum(row["wall_seconds"] for of_arm in arms.values() for row in of_arm)
    order = [NONE, PRETEXT, DISTILLATION, MIXUP, JOINT, "untrained"]
    found = {"claim": CLAIM, "paper": PAPER, "updates": UPDATES, "arms": {arm: arms[arm] for arm in order}}
    return found | {"wall_seconds": round(wall, 1)}


def _rows(data: Path, runs: Path, seed: int, changes: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for arm in REHEARSAL:
        yield arm, Staged(arm, seed, data, runs, changes).measured()
    fields = {f"modalities.{name}.weight": float(updates) for name, updates in UPDATES.items()}
    fields |= {**FIELDS, "training.max_steps": sum(UPDATES.values()), **changes}
    joint = TrunkRun("joint", fields, seed, data, runs, SETS)
    yield JOINT, trained(joint)
    yield "untrained", untrained(joint)


@dataclass(frozen=True)
class Staged:
    """The stages of an arm and a seed."""

    arm: str
    seed: int
    data: Path
    runs: Path
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def whole(self) -> TrunkRun:
        """All modalities, as a joint run has them."""
        fields = {f"modalities.{name}.weight": weight for name, weight in WEIGHTS.items()}
        return TrunkRun("joint", {**fields, **FIELDS, **self.changes}, self.seed, self.data, self.runs, SETS)

    @property
    def folder(self) -> Path:
        name = self.arm.replace(", ", "-").replace(" ", "_")
        return self.whole.folder.with_name(f"{self.whole.folder.name}-stages-{name}")

    def recipe(self) -> dict[str, Any]:
        """As a user writes it."""
        found = self.whole.recipe()
        rehearsal = REHEARSAL[self.arm]
        updates = UPDATES if rehearsal["rehearsal"] == "none" else WITH_BUFFER
        steps = {name: {"max_steps": self.changes.get("training.max_steps", updates[name])} for name in SETS}
        found[STAGES] = {"order": list(SETS), **rehearsal, "training": steps}
        found["training"]["output_dir"] = str(self.folder)
        return found

    def train(self) -> dict[str, Any]:
        """As the command does."""
        first = Staged(DISTILLATION, self.seed, self.data, self.runs, self.changes).folder
        if self.folder != first:
            for part in (f"1_{next(iter(SETS))}", f"{BUFFERS}/{next(iter(SETS))}"):
                shutil.copytree(first / part, self.folder / part, dirs_exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "stages.yaml"
        path.write_text(yaml.safe_dump(self.recipe(), sort_keys=False))
        if code := run.main([str(path)]):
            raise SystemExit(f"{self.folder} ended with exit code {code}")
        return {}

    def measured(self) -> dict[str, Any]:
        """Scores of each modality after every stage from its own on, those of the last stage under `scores`."""
        took = once(self.folder.with_name(f"{self.folder.name}-trained.json"), self.train)
        found = once(self.folder.with_name(f"{self.folder.name}-scores.json"), self._scores)
        wall = took.pop("seconds") + found.pop("seconds")
        return {"after": found, "scores": found[list(SETS)[-1]], "wall_seconds": wall}

    def _scores(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place, stage in enumerate(SETS, start=1):
            known = list(SETS)[:place]
            folder = self.folder / f"{place}_{stage}"
            found[stage] = {
                name: scores(JointModel.from_pretrained(folder, modality=name), self.whole, name) for name in known
            }
        return found


def forgotten(row: dict[str, Any], name: str, measure: str = "linear") -> float:
    """Points of accuracy that a modality lost after its own stage."""
    own: float = row["after"][name][name][measure]
    return own - row["scores"][name][measure]


def compared(found: dict[str, Any]) -> list[Comparison]:
    """What no buffer forgets against what each kind of buffer forgets; then all modalities at the end."""
    arms, rows = found["arms"], []
    for arm in (DISTILLATION, PRETEXT, MIXUP):
        for name in list(SETS)[:-1]:
            sides = [[forgotten(row, name) for row in arms[side]] for side in (NONE, arm)]
            rows.append(
                compare(f"points forgotten, {name}: {NONE} {spread(sides[0])}, {arm} {spread(sides[1])}", *sides)
            )
    for better, worse in ((DISTILLATION, NONE), (DISTILLATION, PRETEXT), (MIXUP, DISTILLATION), (DISTILLATION, JOINT)):
        sides = [[*map(mean, arms[side])] for side in (better, worse)]
        said = f"at the end, mean of the modalities: {better} {spread(sides[0])}, {worse} {spread(sides[1])}"
        rows.append(compare(said, *sides))
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown: linear probes after a modality's own stage, and at the end; mean (lowest to highest) of the seeds."""
    early = list(SETS)[:-1]
    heads = [f"{name}, {when}" for name in early for when in ("own stage", "end", "forgotten")]
    heads += [f"{list(SETS)[-1]}, end", "mean, end"]
    lines = ["| linear probe in % | " + " | ".join(heads) + " |", "| --- |" + " --: |" * len(heads)]
    for arm, rows in found["arms"].items():
        cells = []
        for name in early:
            staged = "after" in rows[0]
            own = spread([row["after"][name][name]["linear"] for row in rows]) if staged else "-"
            lost = spread([forgotten(row, name) for row in rows]) if staged else "-"
            cells += [own, spread([row["scores"][name]["linear"] for row in rows]), lost]
        cells += [spread([row["scores"][list(SETS)[-1]]["linear"] for row in rows]), spread([*map(mean, rows)])]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    knn = [spread([forgotten(row, name, "knn") for row in found["arms"][arm]]) for arm in REHEARSAL for name in early]
    lines += ["", "| points of k-NN forgotten | " + " | ".join(early) + " |", "| --- |" + " --: |" * len(early)]
    for number, arm in enumerate(REHEARSAL):
        lines.append(f"| {arm} | " + " | ".join(knn[number * len(early) :][: len(early)]) + " |")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """A panel for each modality that is not the last: its probe after each stage from its own on, a line an arm."""
    early, colours = list(SETS)[:-1], ("#9a9a9a", "#d9822b", "#1f5fa8", "#3a8f5c")
    figure = Figure(figsize=(5 * len(early), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(early), squeeze=False)[0], early, strict=True):
        stages = list(SETS)[early.index(name) :]
        staged = [(arm, rows) for arm, rows in found["arms"].items() if "after" in rows[0]]
        for (arm, rows), colour in zip(staged, colours, strict=True):
            curves = [[row["after"][stage][name]["linear"] for stage in stages] for row in rows]
            means = [sum(values) / len(values) for values in zip(*curves, strict=True)]
            axes.plot(stages, means, "o-", color=colour, label=arm, markersize=4)
            for curve in curves:
                axes.plot(stages, curve, color=colour, alpha=0.25, linewidth=0.8)
        for arm, style in ((JOINT, "--"), ("untrained", ":")):
            values = [row["scores"][name]["linear"] for row in found["arms"][arm]]
            axes.axhline(sum(values) / len(values), color="#333333", linestyle=style, linewidth=1, label=arm)
        axes.set_title(f"{name}: linear probe after each stage, in %", loc="left", fontsize=10)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
