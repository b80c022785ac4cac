"""The tables of a card: rows of text, each cell from a file of the run folder, or "not measured"."""

import json
from collections.abc import Mapping
from typing import Any

from ...pretraining.data.builtin import BUILTIN
from ..folder import duration
from ..strip_paths import without_places
from .card_yaml import CardFields
from .facts import Facts
from .hub_terms import GLUE, METRICS


NOT_MEASURED, NOT_RECORDED, NOT_STATED = "not measured", "not recorded", "not stated"
Rows = list[list[str]]

# Of the recipe's section training: where it ran and what it wrote, which is not what came out.
NO_HYPERPARAMETER = (
    "output_dir", "report_to", "run_name", "disable_tqdm", "use_cpu", "push_to_hub", "load_best_model_at_end",
    "log_level", "seed",
)  # fmt: skip
NO_HYPERPARAMETERS = ("logging_", "save_", "eval_", "hub_", "dataloader_", "per_device_eval")


def shape(facts: Facts) -> Rows:
    config = facts.config
    rows = [["class", facts.architecture], ["parameters", f"{facts.parameters:,}"]]
    names = {"hidden_size": "width", "num_hidden_layers": "blocks", "num_attention_heads": "attention heads"}
    rows += [[words, f"{config[name]:,}"] for name, words in names.items() if isinstance(config.get(name), int)]
    return rows


def data(facts: Facts) -> Rows:
    """role, source, split, licence"""
    section = facts.section("data")
    used: list[tuple[str, Any]] = [("pretraining", source) for source in section.get("sources") or []]
    used += [("held out", source) for source in section.get("eval_sources") or []]
    used += [
        ("training", section.get("train")),
        ("validation", section.get("validation")),
        ("test", section.get("test")),
    ]
    if section.get("task_name"):
        used.append(("GLUE", {"path": section.get("glue", GLUE), "name": section["task_name"]}))
    rows = [_source(role, source, facts.words, facts.words.data_license) for role, source in used if source]
    if section.get("probe"):
        rows.append(_source("probe, never trained on", section["probe"], facts.words, None))
    return rows


def _source(role: str, source: Mapping[str, Any], words: CardFields, licence: str | None) -> list[str]:
    name = " ".join([place(source["path"]), *([str(source["name"])] if source.get("name") else [])])
    chosen = [f"{way} {_value(source[way])}" for way in ("keep", "drop", "weight") if source.get(way)]
    split = source.get("split") or " / ".join(
        str(source[key]) for key in ("train_split", "validation_split", "test_split") if source.get(key)
    )
    kind, _, called = str(source["path"]).partition(":")
    builtin = BUILTIN.get(called) if kind == "builtin" else None
    terms = source.get("license") or (builtin.license if builtin else licence or NOT_STATED)
    said = words.said_name(str(source["path"]))
    named = f"`{name}` ({said})" if said else f"`{name}`"
    return [role, named, ", ".join([split or "-", *chosen]), str(terms)]


def place(path: Any) -> str:
    return without_places(str(path))


def training(facts: Facts) -> Rows:
    """Length, seed and every hyperparameter of the recipe."""
    state, section = facts.state, facts.section("training")
    rows = []
    if "global_step" in state:
        rows.append(["updates", f"{state['global_step']:,}"])
    epochs = facts.logged("epoch")
    if epochs:
        rows.append(["passes over the data", f"{epochs[-1]:.3g}"])
    if facts.results is not None:
        rows.append(["training examples", f"{facts.results['run']['train_examples']:,}"])
        rows.append(["encoder starts from", _start(facts)])
    elif facts.section("model").get("model_name_or_path"):
        rows.append(["continues from", _start(facts)])
    rows.append(["seed", NOT_STATED if facts.seed is None else str(facts.seed)])
    kept = {
        name: value
        for name, value in section.items()
        if name not in NO_HYPERPARAMETER and not name.startswith(NO_HYPERPARAMETERS) and value is not None
    }
    return rows + [[f"`{name}`", _value(value)] for name, value in kept.items()]


def _start(facts: Facts) -> str:
    if facts.results is not None and facts.results["run"].get("from_scratch"):
        return "random weights"
    return facts.words.base_model or place(facts.section("model").get("model_name_or_path") or NOT_STATED)


def compute(facts: Facts) -> Rows:
    run = facts.run.run or {}
    machine = run.get("hardware") or {}
    gpus = machine.get("gpus") or []
    device = ", ".join(gpus) if gpus else run.get("device", NOT_RECORDED)
    rows = [["device", device], ["processes", str(run.get("processes", NOT_RECORDED))]]
    if machine.get("cpu"):
        rows.append(["processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"])
    cost = run.get("compute") or {}
    seconds = facts.logged("training_seconds") or facts.logged("train_runtime")
    rows.append(["training time", duration(seconds[-1]) if seconds else NOT_MEASURED])
    if "wall_seconds" in cost:
        rows.append(["with probes, evaluation and saving", duration(cost["wall_seconds"])])
    speed = facts.logged("samples_per_second")
    if speed:
        rows.append(["throughput", f"{min(speed):.3g} to {max(speed):.3g} samples per second"])
    emissions = facts.emissions or {}
    energy, carbon = emissions.get("energy_consumed"), emissions.get("emissions")
    rows.append(["energy", f"{float(energy):.3g} kWh (codecarbon)" if energy else NOT_MEASURED])
    rows.append(["carbon", f"{1000 * float(carbon):.3g} g CO2 equivalent (codecarbon)" if carbon else NOT_MEASURED])
    peak = cost.get("peak_memory_gib")
    rows.append(["peak memory", NOT_MEASURED if peak is None else f"{peak} GiB of the main process"])
    if "peak_gpu_memory_gib" in cost:
        rows.append(["peak memory of its GPU", f"{cost['peak_gpu_memory_gib']} GiB, as PyTorch allocated it"])
    return rows


def provenance(facts: Facts) -> Rows:
    run = facts.run.run or {}
    versions = run.get("versions") or {}
    return [
        ["command", f"`{without_places(run['command'])}`" if run.get("command") else NOT_RECORDED],
        ["commit of data2vec", f"`{run['commit']}`" if run.get("commit") else NOT_RECORDED],
        ["versions", ", ".join(f"`{name} {number}`" for name, number in versions.items()) or NOT_RECORDED],
        ["Python", f"`{run['python']}`" if run.get("python") else NOT_RECORDED],
    ]


def fine_tuned(facts: Facts) -> Rows:
    """metric, split, value, examples; as results.json has them"""
    rows = []
    for split, values in (facts.results or {}).items():
        if not isinstance(values, dict) or "examples" not in values:
            continue
        for metric, value in values.items():
            if metric in METRICS:
                rows.append([METRICS[metric][1], split, f"{value:.4g}", f"{values['examples']:,}"])
    return rows


def _value(value: Any) -> str:
    """As the file has it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)
