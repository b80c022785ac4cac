"""The claim `knows` of reproduce.py: what can be read from each layer of an encoder, beyond class labels?

data2vec 1 and 2.0, of speech, images and letters
    ->  student and teacher at the end, the student after a quarter and half of the updates, the untrained network
    ->  linear probes on every layer, one for each question of knows_audio.py, knows_images.py and knows_text.py
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import knows_audio
import knows_images
import knows_text
import numpy as np
import yaml
from comparisons import Comparison, compare, spread
from experiment import HERE, SYSTEMS, Experiment, once, wall_seconds
from knows_picture import draw_modality
from knows_probe import Answers, Splits, answers, answers_without, best
from transformers import PreTrainedModel, set_seed

from data2vec.pretraining import run
from data2vec.pretraining.evaluation.probe import teacher_encoder


CLAIM = "Pretrained layers tell more than untrained ones, also of what is no label"
PAPER = "class labels only; of other speech encoders, middle layers hold most of phones and words (Pasad et al. 2021)"
SEEDS = (0, 1, 2)
FAMILIES = {"v1": "data2vec 1", "v2": "data2vec 2.0"}
STAGES = {"student at 25 %": 1, "student at 50 %": 2}  # of the updates, in quarters
ENCODERS = ("untrained", *STAGES, "student", "teacher")
UPDATES = {"text_v1": 900, "text_v2": 600}  # fewer than the recipes say: a minute of one core, as the others
CONTROL = "control"  # in the names of questions that ask nothing about the input
# the systems, and what is asked of them
MODALITIES: dict[str, tuple[str, Callable[[Experiment, Any], Splits]]] = {
    "audio": ("audio", knows_audio.splits),
    "images": ("cifar", knows_images.splits),
    "text": ("text", knows_text.splits),
}


def evaluate(
    data: Path,
    runs: Path,
    seeds: Sequence[int] = SEEDS,
    modalities: Sequence[str] = tuple(MODALITIES),
    **changes: Any,
) -> dict[str, Any]:
    """Everything that data/knows.json holds; `changes` are fields of every recipe."""
    found = {name: of_modality(name, seeds, data, runs, changes) for name in modalities}
    wall = sum(of.pop("wall_seconds") for of in found.values())
    return {"claim": CLAIM, "paper": PAPER, "wall_seconds": round(wall, 1), "modalities": found}


def of_modality(name: str, seeds: Sequence[int], data: Path, runs: Path, changes: dict[str, Any]) -> dict[str, Any]:
    system, splits_of = MODALITIES[name]
    experiments = [
        experiment_of(f"{system}_{family}", seed, data, runs, changes) for seed in seeds for family in FAMILIES
    ]
    splits = cache(lambda: splits_of(experiments[0], opened(experiments[0]).processor))  # the same for all
    questions = once(runs / f"knows-{name}.json", lambda: answers_without(splits()))
    wall = questions.pop("seconds")
    systems: dict[str, Any] = {}
    for of in experiments:
        of.pretrain()
        kept = of.folder.with_name(f"{of.folder.name}-knows.json")
        scores = once(kept, lambda of=of: answers_of(of, splits()))
        wall += wall_seconds(of.folder) + scores.pop("seconds")
        print(f"knows: {of.system}, seed {of.seed}: {wall:.0f} s so far", flush=True)
        seeds_of = systems.setdefault(of.system, {"title": SYSTEMS[of.system].title, "seeds": []})["seeds"]
        seeds_of.append({"seed": of.seed, "encoders": scores})
    return {"questions": questions, "systems": systems, "wall_seconds": wall}


def experiment_of(system: str, seed: int, data: Path, runs: Path, changes: dict[str, Any]) -> Experiment:
    """A run that keeps its state after each quarter."""
    recipe = yaml.safe_load((HERE / "systems" / f"{system}.yaml").read_text())
    asked = {"training.max_steps": UPDATES.get(system, recipe["training"]["max_steps"]), **changes}
    return Experiment(system, {"training.save_steps": asked["training.max_steps"] // 4, **asked}, seed, data, runs)


def opened(of: Experiment) -> Any:
    return run.open_data(of.arguments("test"))


def answers_of(of: Experiment, splits: Splits) -> dict[str, Answers]:
    collate = opened(of).probe_collator
    return {name: answers(encoder, collate, splits) for name, encoder in encoders(of)}


def encoders(of: Experiment) -> Iterator[tuple[str, PreTrainedModel]]:
    """Those of `ENCODERS`."""
    asked = of.arguments()
    set_seed(of.seed)
    yield "untrained", asked.model_class(asked.config).base_model
    for name, quarters in STAGES.items():
        folder = of.folder / f"checkpoint-{quarters * int(asked.training.save_steps)}"
        yield name, asked.model_class.from_pretrained(folder).base_model
    model = asked.model_class.from_pretrained(of.folder / "pretraining")
    yield "student", model.base_model
    yield "teacher", teacher_encoder(model)


# ---- what is said of the numbers ----


def mean_of(encoder: Answers) -> float:
    """Over the questions, each at its best layer; knowing less than nothing counts as nothing."""
    return float(np.mean([max(best(scores)[1], 0) for name, scores in encoder.items() if CONTROL not in name]))


def compared(found: dict[str, Any]) -> list[Comparison]:
    """The mean over questions of each system: student against untrained, then against its teacher."""
    rows = []
    for other in ("untrained", "teacher"):
        for modality in found["modalities"].values():
            for system in modality["systems"].values():
                sides = [[mean_of(seed["encoders"][one]) for seed in system["seeds"]] for one in ("student", other)]
                said = f"student {spread(sides[0])}, {other} {spread(sides[1])}"
                rows.append(compare(f"{system['title']}, mean of the questions: {said}", *sides))
    return rows


def table(found: dict[str, Any]) -> str:
    """Markdown, a table a modality: means of the seeds, and the layer that most seeds of the student are best at."""
    tables = []
    for modality in found["modalities"].values():
        columns = [(system, one) for system in modality["systems"].values() for one in ENCODERS]
        family = (system["title"].split(", ")[0] for system, _ in columns)
        heads = [f"{name}: {one}" for name, (_, one) in zip(family, columns, strict=True)]
        lines = [
            "| " + " | ".join(["in %", "nothing known", "without a network", *heads]) + " |",
            "| --- |" + " --: |" * (2 + len(heads)),
        ]
        for name, question in modality["questions"].items():
            without = max(question["without"].items(), key=lambda item: item[1])
            cells = [f"{question['nothing known']:.0f}", f"{without[1]:.0f} ({without[0]})"]
            for system, one in columns:
                layers, scores = zip(*(best(seed["encoders"][one][name]) for seed in system["seeds"]), strict=True)
                layer = f" (layer {np.bincount(layers).argmax()})" if one == "student" else ""
                cells.append(f"{np.mean(scores):.0f}{layer}")
            lines.append(f"| {name}, {question['metric']} | " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def draw(found: dict[str, Any], path: Path) -> None:
    """A picture a modality beside `path`: knows_audio.png and so on."""
    for name, modality in found["modalities"].items():
        draw_modality(name, modality, path.with_name(f"{path.stem}_{name}.png"))
