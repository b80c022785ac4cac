"""What a card says, read from the files of a run folder: nothing here is measured or known from elsewhere."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import CONFIG_MAPPING

from ...modeling.configuration_data2vec2 import Data2Vec2Config
from ...pretraining.data.modality import Modality
from ...pretraining.modalities.build import modality_of
from ...pretraining.modalities.methods import DATA2VEC, DATA2VEC2, METHODS, Method
from ..folder import RESULTS, STATE, Folder, open_folder
from .card_yaml import CardFields
from .modalities import CARD_WORDS, CardWords
from .recorded_numbers import unrecorded


EMISSIONS = "emissions.csv"
MEASURED = ("energy_consumed", "emissions")  # columns of emissions.csv: kWh, and kg of CO2 equivalent
# Files of JSON whose numbers a card may name, beside those of `Folder`.
PROCESSORS = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Facts:
    """A finished run folder and what a person said about it.

    Attributes:
        run: the folder, read.
        words: `card.yaml`.
        config: `config.json`.
        results: of a fine-tuned model, `results.json`; `None` for an encoder.
        state: `trainer_state.json` without its log.
        parameters: of the weights at the top of the folder.
        emissions: `emissions.csv`, as codecarbon writes it, its parts added up; `None`: not measured.
    """

    run: Folder
    words: CardFields
    config: dict[str, Any]
    results: dict[str, Any] | None
    state: dict[str, Any]
    parameters: int
    emissions: dict[str, str] | None

    @property
    def name(self) -> str:
        return self.words.model_name or self.run.name

    @property
    def modality(self) -> type[Modality[Any]]:
        return modality_of(str(self.config["model_type"]))

    @property
    def of_modality(self) -> CardWords:
        return CARD_WORDS[self.modality]

    @property
    def own_code(self) -> bool:
        """Whether it is not in `transformers`, so that its code goes with it."""
        return bool(remote_classes(str(self.config["model_type"])))

    @property
    def method(self) -> Method:
        return method_of(str(self.config["model_type"]))

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or ["Model"])[0])

    @property
    def pipeline(self) -> str | None:
        """The Hub's task of the saved class; `None` for one that has none."""
        tasks = self.of_modality.tasks
        return next((task for ending, task in tasks.items() if self.architecture.endswith(ending)), None)

    def section(self, name: str) -> dict[str, Any]:
        return dict(self.run.recipe.get(name) or {})

    @property
    def seed(self) -> int | None:
        places = (self.section("training"), (self.results or {}).get("run", {}), self.run.report or {})
        return next((int(place["seed"]) for place in places if place.get("seed") is not None), None)

    def logged(self, name: str) -> list[float]:
        """Every logged value of a quantity."""
        return [float(entry[name]) for entry in self.run.log if isinstance(entry.get(name), int | float)]

    @property
    def unfinished(self) -> str | None:
        """Why these weights are not those of a finished run, `None` where they are."""
        state = (self.run.health or {}).get("state")
        if state not in (None, "finished"):
            return f"The run's own record says: {state}."
        step, last = self.state.get("global_step"), self.state.get("max_steps")
        if step is not None and last and step < last:
            return f"The run made {step:,} of its {last:,} updates."
        return None


def remote_classes(model_type: str) -> dict[str, str]:
    """Auto class -> file.Class of a model whose code travels with its weights; empty for one of `transformers`."""
    known = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None
    return dict(getattr(known, "remote_classes", {}))


def method_of(model_type: str) -> Method:
    """What a model type is an instance of; of one without an entry, the method whose classes it extends."""
    family = DATA2VEC2 if issubclass(CONFIG_MAPPING[model_type], Data2Vec2Config) else DATA2VEC
    return METHODS.get(model_type, family)


def read_facts(folder: str | Path, given: dict[str, Any]) -> Facts:
    """Read a run folder; `given` are fields of `card.yaml` that override it.

    Raises:
        ValueError: the folder is no finished run's, or a field is invalid; the message names it and the fix.
    """
    run = open_folder(folder)
    config_file, weights = run.path / "config.json", sorted(run.path.glob("model*.safetensors"))
    if not config_file.is_file() or not weights:
        raise ValueError(
            f"{str(folder)!r} has no config.json and model.safetensors at its top: the run is not finished, or this "
            "is not a run folder. Let it end (the same command continues it), then render its card."
        )
    config = json.loads(config_file.read_text(encoding="utf-8"))
    model_type = str(config.get("model_type"))
    CARD_WORDS[modality_of(model_type)]  # ValueError where there is none
    results = _json(run.path / RESULTS)
    results = results if results and "run" in results else None  # run_probe writes one of its own
    state = _json(run.path / STATE) or {}
    emissions = _emissions(run.path / EMISSIONS)
    words = CardFields.load(run.path, given)
    parameters = sum(_sizes(weights))
    recorded = (
        config, run.recipe, run.run, run.health, run.report, results, state, run.log, parameters, emissions, run.name,
        *(_json(run.path / name) for name in PROCESSORS),
        {name: value for name, value in asdict(words).items() if name not in ("summary", "limits")},
    )  # fmt: skip
    for name in ("summary", "limits"):
        if missing := unrecorded(getattr(words, name) or "", *recorded):
            raise ValueError(
                f"{name} = {getattr(words, name)!r} names {', '.join(missing)}, which no file of {run.path} holds: a "
                "card gives no number that its run did not record. Say it without, or put the file that was measured "
                "into the folder."
            )
    state.pop("log_history", None)
    return Facts(run, words, config, results, state, parameters, emissions)


def _sizes(weights: list[Path]) -> Iterator[int]:
    for file in weights:
        with safe_open(file, framework="numpy") as tensors:
            yield from (prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _emissions(path: Path) -> dict[str, str] | None:
    """Energy and carbon of all parts of a run: each has a run_id, and of its rows the last one says all."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        parts = {row.get("run_id"): row for row in csv.DictReader(file)}
    if not parts:
        return None
    last = list(parts.values())[-1]
    return last | {name: f"{sum(float(part[name]) for part in parts.values()):.9g}" for name in MEASURED}
