"""The report in words: `report.json` -> markdown that also reads well in a terminal."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any


# log key -> what a reader calls it
HEALTH = {
    "loss": "loss",
    "target_std": "spread of targets",
    "prediction_std": "spread of predictions",
    "position_std": "spread of targets across samples",
    "effective_rank": "effective rank of targets",
}
METRIC_NAMES = {
    "linear_probe": "linear probe",
    "knn": "k-NN",
    "few_labels": "few labels",
    "fine_tuning": "fine-tuning",
}
FROZEN = ("linear_probe", "knn", "few_labels")
SHAPES = {
    "input_values": "(batch, samples) at 16 kHz -> (batch, frames, dim)",
    "pixel_values": "(batch, channels, height, width) -> (batch, CLS and patches, dim)",
    "input_ids": "(batch, tokens) -> (batch, tokens, dim)",
}


def in_words(results: Mapping[str, Any]) -> str:
    """Markdown. Every number in it is in `results`, rounded; percentages there are from 0 to 1."""
    parts = [
        "# What this run learnt",
        _fine_tuning(results),
        _frozen(results),
        _raw(results),
        _table(results),
        _method(results),
        _health(results),
        _loading(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fine_tuning(results: Mapping[str, Any]) -> str:
    pretrained, scratch = (results["rows"][kind]["fine_tuning"]["accuracy"] for kind in ("student", "untrained"))
    comparison = results["against_untrained"]["fine_tuning"]
    verdict = {
        "better": "Pretraining helped fine-tuning.",
        "worse": "Pretraining hurt fine-tuning.",
        "unclear": "Fine-tuning shows no clear effect of pretraining.",
    }[comparison["verdict"]]
    return _paragraph(
        f"{verdict} With {results['settings']['labels_per_class']} labels a class the network reaches "
        f"{_percent(pretrained)} % when it starts from the pretrained encoder and {_percent(scratch)} % when it "
        f"starts from scratch ({100 * comparison['gain']:+.1f} points; differences up to "
        f"{_percent(comparison['noise'])} could be chance)."
    )


def _frozen(results: Mapping[str, Any]) -> str:
    """The frozen encoder beside the same network untrained, grouped by verdict."""
    phrases = {
        "better": "The frozen encoder is better than the same network untrained:",
        "worse": "The frozen encoder is worse than the same network untrained:",
        "unclear": "No clear difference between the frozen encoder and the same network untrained:",
    }
    found: dict[str, list[str]] = {verdict: [] for verdict in phrases}
    for metric in FROZEN:
        student, untrained = (results["rows"][kind][metric]["accuracy"] for kind in ("student", "untrained"))
        found[results["against_untrained"][metric]["verdict"]].append(
            f"{METRIC_NAMES[metric]} {_percent(student)} % against {_percent(untrained)} %"
        )
    return _grouped(phrases, found)


def _raw(results: Mapping[str, Any]) -> str:
    """Where the best raw features win, and where they lose."""
    phrases = {
        "worse": "Raw features win, although they need no network and no pretraining:",
        "better": "The encoder beats the best raw features:",
        "unclear": "No clear difference between the encoder and the best raw features:",
    }
    found: dict[str, list[str]] = {verdict: [] for verdict in phrases}
    for metric, comparison in results["against_raw"].items():
        of_raw = results["rows"][comparison["raw"]][comparison["raw_metric"]]["accuracy"]
        how = " with the same labels" if comparison["raw_metric"] != metric else ""
        found[comparison["verdict"]].append(
            f"{METRIC_NAMES[metric]} {_percent(results['rows']['student'][metric]['accuracy'])} % against "
            f"{_percent(of_raw)} % on {comparison['raw']}{how}"
        )
    return _grouped(phrases, found)


def _table(results: Mapping[str, Any]) -> str:
    labels = results["settings"]["labels_per_class"]
    lines = [["accuracy in %", "linear probe", "k-NN", f"{labels} labels a class", "fine-tuned on them"]]
    for row in results["rows"].values():
        lines.append([row["name"], *(_cell(row.get(metric)) for metric in METRIC_NAMES)])
    return aligned(lines)


def _method(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    rates = ", ".join(f"{rate:g}" for rate in settings["fine_tune_learning_rates"])
    pretrained, scratch = (results["rows"][kind]["fine_tuning"] for kind in ("student", "untrained"))
    return _paragraph(
        f"Measured on {results['test_examples']} test examples of {results['classes']} classes (always saying the "
        f"commonest class: {_percent(results['commonest_class'])} %), seed {results['seed']}. Linear probe and k-NN "
        f"({settings['neighbours']} neighbours) read {results['train_examples']} labelled training examples; ± is the "
        f"standard deviation over {settings['draws']} draws of the labels. Fine-tuning: {settings['fine_tune_steps']} "
        f"steps; of the learning rates {rates} the one that is best on {pretrained['validation_examples']} other "
        f"training examples, chosen for each start by itself ({pretrained['learning_rate']:g} pretrained, "
        f"{scratch['learning_rate']:g} from scratch). The test examples chose nothing."
    )


def _health(results: Mapping[str, Any]) -> str:
    health = results["health"]
    if not health:
        return ""
    lines = [["over the run", "first", "at step", "last", "at step"]]
    for name, value in health.items():
        first, last = (f"{value[when]:.3g}" for when in ("first", "last"))
        lines.append([HEALTH[name], first, str(value["first_step"]), last, str(value["last_step"])])
    meanings = {
        "target_std": "A spread near zero of targets or predictions means that everything is predicted alike.",
        "position_std": "A spread near zero across samples means that targets depend on the position alone.",
    }
    meaning = _paragraph(" ".join(text for name, text in meanings.items() if name in health))
    return "\n\n".join(part for part in (aligned(lines), meaning) if part)


def _loading(results: Mapping[str, Any]) -> str:
    name, folder = results["main_input_name"], results["model_folder"]
    about = _paragraph(
        f"The encoder ({results['parameters']} parameters) is in {folder}, the curves of the run are in report.png "
        "there. To use the encoder:"
    )
    return (
        f"{about}\n\n"
        "```python\n"
        "from transformers import AutoModel\n\n"
        f"encoder = AutoModel.from_pretrained({json.dumps(folder)})\n"
        f"features = encoder({name}={name}).last_hidden_state  # {SHAPES[name]}\n"
        "```"
    )


def aligned(lines: list[list[str]]) -> str:
    """A markdown table, the first line its heading, with columns of equal width: text left, numbers right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    return _percent(value["accuracy"]) + (f" ± {_percent(value['std'])}" if "std" in value else "")


def _grouped(phrases: Mapping[str, str], found: Mapping[str, list[str]]) -> str:
    return "\n\n".join(_paragraph(f"{phrases[verdict]} {'; '.join(what)}.") for verdict, what in found.items() if what)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 110, break_on_hyphens=False, break_long_words=False)


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.1f}"
