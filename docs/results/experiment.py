"""One run of an experiment: a system, the fields that its arm changes, a seed. Pretrained once, then measured once.

A finished run is found again by what was asked of it, so arms that claims share are trained once.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from baselines import reconstruction_model_class, regularised_class, restless_class
from prepare import PREPARE, Prepared

from data2vec.pretraining import run
from data2vec.pretraining.arguments import Run, parse_arguments


HERE = Path(__file__).parent


@dataclass(frozen=True)
class System:
    """A recipe of `systems/`, what it is trained on, and how many labels per class the few-label probe has."""

    title: str
    data: str
    labels_per_class: int


SYSTEMS = {
    "vision_v1": System("data2vec 1, Fashion-MNIST", "fashion_mnist", 10),
    "vision_v2": System("data2vec 2.0, Fashion-MNIST", "fashion_mnist", 10),
    "patches_v1": System("data2vec 1, Fashion-MNIST in 196 patches", "fashion_mnist", 10),
    "patches_v2": System("data2vec 2.0, Fashion-MNIST in 196 patches", "fashion_mnist", 10),
    "cifar_v1": System("data2vec 1, CIFAR-10", "cifar10", 50),
    "cifar_v2": System("data2vec 2.0, CIFAR-10", "cifar10", 50),
    "audio_v1": System("data2vec 1, spoken digits", "spoken_digits", 10),
    "audio_v2": System("data2vec 2.0, spoken digits", "spoken_digits", 10),
    "read_speech_v1": System("data2vec 1, LibriSpeech", "read_speech", 10),
    "read_speech_v2": System("data2vec 2.0, LibriSpeech", "read_speech", 10),
    "eat": System("EAT, ESC-10", "esc10", 10),
    "radar_points": System("Point2Vec, RadHAR", "radar", 10),
    "voxels_points": System("Point2Vec, ModelNet10", "voxels", 10),
    "solids_points": System("Point2Vec, made-up solids", "solids", 10),
    "figures": System("SV-data2vec, figures of JHMDB", "stick_figures", 10),
    "mouths": System("AV-data2vec, digits with drawn mouths", "mouths", 10),
    "text_v1": System("data2vec 1, letters of film reviews", "imdb_letters", 50),
    "text_v2": System("data2vec 2.0, letters of film reviews", "imdb_letters", 50),
}


@dataclass(frozen=True)
class Experiment:
    """Args:
    system: a name of `SYSTEMS`.
    fields: what the arm changes, `{"objective.top_k_layers": 1}`. Those without a section: `taught_by` are the fields
        of another run, whose finished encoder is `objective.teacher`; `method: reconstruction` predicts the hidden
        input in place of the teacher's features; `local_rate: 30` is a factor of the local encoder's rate; `vicreg`
        the weights of a regularisation.
    seed: of the weights, the data's order and the masks.
    data, runs: the folder of the data sets, and where the runs go.
    """

    system: str
    fields: Mapping[str, Any]
    seed: int
    data: Path
    runs: Path

    @property
    def folder(self) -> Path:
        text = (HERE / "systems" / f"{self.system}.yaml").read_text()
        recipe = yaml.safe_load(text)
        changed = {field: value for field, value in self.fields.items() if value_at(recipe, field) != value}
        asked = {"recipe": text, "fields": changed}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10]
        return self.runs / f"{self.system}-{digest}-{self.seed}"

    @property
    def prepared(self) -> Prepared:
        return prepared(SYSTEMS[self.system].data, self.data, self.runs)

    @property
    def teacher(self) -> "Experiment | None":
        return replace(self, fields=self.fields["taught_by"]) if "taught_by" in self.fields else None

    def arguments(self, probe: str = "online") -> Run:
        """The recipe with the arm's fields, the data and the seed."""
        values = {
            "data.sources": [{"path": self.prepared.source}],
            "data.probe.path": str(self.prepared.probes / probe),
            "data.probe.validation_split": "test",  # of "online": of training examples, as all of it
            "training.output_dir": str(self.folder),
            "training.seed": self.seed,
            **{field: value for field, value in self.fields.items() if "." in field},
        }
        if self.teacher is not None:
            values["objective.teacher"] = str(self.teacher.folder)
        words = [word for field, value in values.items() for word in (f"--{field}", yaml_word(value))]
        asked = parse_arguments([str(HERE / "systems" / f"{self.system}.yaml"), *words])
        if self.fields.get("method") == "reconstruction":
            asked = replace(asked, model_class=reconstruction_model_class(asked.model_class))
        if factor := self.fields.get("local_rate"):
            asked = replace(asked, model_class=restless_class(asked.model_class, factor))
        if weights := self.fields.get("vicreg"):
            asked = replace(asked, model_class=regularised_class(asked.model_class, *weights))
        return asked

    @property
    def state(self) -> Path:
        """The trainer's last word in the run folder: there once the run has finished."""
        return self.folder / "trainer_state.json"

    def pretrain(self) -> None:
        """Train as `run.py` does, unless that was done. Two processes cannot train the same run."""
        if self.state.is_file():
            return
        if self.teacher is not None:
            self.teacher.pretrain()
        asked = self.arguments()
        with contextlib.ExitStack() as stack:
            data, checkpoint = run.prepare(asked, stack)
            code = run.pretrain(asked, data, checkpoint)
        if code:
            raise SystemExit(f"{self.folder} ended with exit code {code}, see its health.json")

    def log(self) -> list[dict[str, Any]]:
        """What the trainer logged."""
        return json.loads(self.state.read_text())["log_history"]


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was made, and the `seconds` that it took: made once, and kept in a file."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        found = make()
        path.write_text(json.dumps(found | {"seconds": round(time.monotonic() - began, 1)}) + "\n")
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def wall_seconds(folder: Path) -> float:
    """Of a training with its probes and saving, as `run.py` keeps it; without the start of Python."""
    return json.loads((folder / "run.json").read_text())["compute"]["wall_seconds"]


@cache
def prepared(name: str, data: Path, runs: Path) -> Prepared:
    return PREPARE[name](data, runs / "data" / name)


def value_at(recipe: Any, field: str) -> Any:
    """`objective.masking.prob` of a recipe, None where it says nothing."""
    for name in field.split("."):
        recipe = recipe.get(name) if isinstance(recipe, dict) else None
    return recipe


def yaml_word(value: Any) -> str:
    """A value as the command line takes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
