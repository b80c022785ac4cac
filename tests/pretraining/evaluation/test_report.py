"""The report at the end of a run: what a user reads, and that it is what was measured."""

import json
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from data2vec.pretraining.evaluation.report import ReportArguments, compare, write_report
from data2vec.pretraining.evaluation.report_text import markdown_table, report_text
from tests.pretraining.evaluation.pattern_images import collate, encoder, patterns


SETTINGS = {
    "labels_per_class": 5,
    "draws": 2,
    "fine_tune_steps": 20,
    "fine_tune_learning_rates": [1e-2],
    "fine_tune_batch_size": 8,
}
LOG = [
    {"step": 0, "probe/knn_student": 0.41, "probe/knn_teacher": 0.41},
    {"step": 10, "loss": 1.234, "target_std": 0.91, "prediction_std": 0.11, "position_std": 0.7},
    {"step": 1800, "loss": 0.567, "target_std": 0.93, "prediction_std": 0.52, "position_std": math.nan},
    {"step": 1800, "probe/knn_student": 0.61, "probe/knn_teacher": 0.51, "effective_rank": 9.87},
    {"step": 1800, "train_runtime": 12.3},
]


def spots(count, seed):
    """The class is the row of a bright spot: plain in pixels, hidden from an encoder without positions."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        image = 0.5 * torch.randn(1, 6, 6, generator=generator)
        image[0, 2 * (i % 3), 2 * (i // 3 % 3)] += 3
        examples.append({"pixel_values": image, "labels": i % 3})
    return examples


def report(folder, examples=spots, teacher=True, log_history=LOG, **settings):
    return write_report(
        folder,
        pretrained=encoder(0),
        teacher=encoder(1) if teacher else None,
        untrained=encoder(2),
        probe_train=examples(97, 1),
        probe_test=examples(61, 2),
        collate=collate,
        log_history=log_history,
        class_names=["rows", "columns", "board"],
        settings=ReportArguments(**SETTINGS | settings),
        seed=7,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    encoder(0).save_pretrained(folder)
    results = report(folder)
    return folder, results, (folder / "report.md").read_text(encoding="utf-8")


def test_rows_and_columns(finished):
    _, results, words = finished
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in words.splitlines() if line[:1] == "|"]
    assert table[0] == ["accuracy in %", "linear probe", "k-NN", "5 labels per class", "fine-tuned on them"]
    rows = {line[0]: line[1:] for line in table[2:6]}
    assert list(rows) == ["pretrained student", "pretrained teacher", "same network, untrained", "pixels"]
    measured = results["rows"]["student"]
    assert rows["pretrained student"] == [
        f"{100 * measured['linear_probe']['accuracy']:.1f}",
        f"{100 * measured['knn']['accuracy']:.1f}",
        f"{100 * measured['few_labels']['accuracy']:.1f} ± {100 * measured['few_labels']['std']:.1f}",
        f"{100 * measured['fine_tuning']['accuracy']:.1f} ± {100 * measured['fine_tuning']['std']:.1f}",
    ]
    assert rows["pixels"][-1] == rows["pretrained teacher"][-1] == "-"


def numbers_in(value):
    if isinstance(value, dict):
        return [n for key, item in value.items() for n in numbers_in(item) + numbers_in(key)]
    if isinstance(value, list):
        return [n for item in value for n in numbers_in(item)]
    if isinstance(value, str) or value is None:
        return []
    return [float(value)]


def test_every_number_in_words_was_measured(finished):
    folder, _, words = finished
    measured = numbers_in(json.loads((folder / "report.json").read_text()))
    known = {f"{n:g}" for n in measured} | {f"{n:.3g}" for n in measured} | {str(int(n)) for n in measured}
    known |= {f"{100 * n:.1f}" for n in measured} | {f"{100 * n:+.1f}" for n in measured}
    prose = words.split("```")[0].replace(str(folder), "")
    numbers = re.findall(r"[+-]?\d+(?:\.\d+)?(?:e-?\d+)?", prose)
    assert len(numbers) > 40
    assert [number for number in numbers if number not in known] == []


def test_what_was_measured_on_is_said(finished):
    _, results, words = finished
    text = " ".join(words.split())
    assert "Measured on 61 test examples of 3 classes" in text
    assert "Seed 7." in text and "97 labelled training examples" in text and "2 draws of the labels" in text
    assert "Chance, always answering the most frequent class, is 34.4 %." in text
    assert "The classes: rows, columns, board." in text
    assert results["commonest_class"] == 21 / 61  # class 0, the commonest of training
    assert results["settings"] == {**SETTINGS, "max_examples": 2000, "neighbours": 10, "layer": None}
    assert results["class_names"] == ["rows", "columns", "board"]


def test_health_over_the_run(finished):
    _, results, words = finished
    assert results["health"]["loss"] == {"first_step": 10, "first": 1.234, "last_step": 1800, "last": 0.567}
    assert results["health"]["position_std"]["last_step"] == 10  # NaN is not a measurement
    assert re.search(r"\| loss +\| +1\.23 \| +10 \| +0\.567 \| +1800 \|", words)
    assert "spread of targets across samples" in words


def test_report_json_is_strict_json_and_what_was_returned(finished):
    folder, results, _ = finished
    text = (folder / "report.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == results


def test_the_picture_is_there(finished):
    folder, _, words = finished
    with Image.open(folder / "report.png") as picture:
        picture.load()
        assert picture.width > 1200 and picture.height > 500
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 50
    assert "report.png" in words


def test_the_three_lines_load_the_encoder(finished):
    _, _, words = finished
    (code,) = re.findall(r"```python\n(.*?)```", words, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 3 and "data2vec." not in code
    names = {"pixel_values": torch.randn(2, 1, 6, 6)}
    exec(code, names)
    assert names["features"].shape == (2, 10, 16)
    torch.testing.assert_close(names["features"], encoder(0).eval()(names["pixel_values"]).last_hidden_state)


def test_it_is_printed(tmp_path, capsys):
    report(tmp_path, teacher=False, log_history=[], fine_tune_steps=2)
    printed = capsys.readouterr().out
    written = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert written in printed
    assert "pretrained teacher" not in written and "over the run" not in written
    assert (tmp_path / "report.png").is_file()


def test_raw_features_that_win_are_said_to_win(finished):
    _, results, words = finished
    assert results["rows"]["pixels"]["knn"]["accuracy"] > 0.8 > results["rows"]["student"]["knn"]["accuracy"] + 0.2
    assert results["against_raw"]["knn"]["verdict"] == "worse"
    text = " ".join(words.split())
    sentence = text[text.index("Raw features win") :].split(". ")[0]
    accuracies = [100 * results["rows"][row]["knn"]["accuracy"] for row in ("student", "pixels")]
    assert f"k-NN {accuracies[0]:.1f} % against {accuracies[1]:.1f} % on pixels" in sentence


def test_an_encoder_that_beats_raw_features_is_said_to(tmp_path):
    torch.manual_seed(0)
    results = report(tmp_path, examples=partial(patterns, noise=0.5), fine_tune_steps=40)
    assert results["against_raw"]["fine_tuning"]["verdict"] == "better"
    text = " ".join((tmp_path / "report.md").read_text(encoding="utf-8").split())
    sentence = text[text.index("The encoder beats the best raw features") :]
    assert sentence.index("fine-tuning") < sentence.index("with the same labels")


def test_the_same_seed_gives_the_same_report(tmp_path):
    first, second = (report(tmp_path / name, fine_tune_steps=3, log_history=[]) for name in "ab")
    assert first["rows"] == second["rows"]


def test_no_more_examples_than_allowed(tmp_path):
    results = report(tmp_path, max_examples=53, fine_tune_steps=1)
    assert (results["train_examples"], results["test_examples"]) == (53, 53)


# The verdicts


def score(accuracy, draws=None):
    return {"accuracy": accuracy} | ({"draws": draws} if draws else {})


def test_a_difference_within_the_noise_of_the_test_set_is_unclear():
    noise = 2 * math.sqrt((0.8 * 0.2 + 0.78 * 0.22) / 600)
    result = compare(score(0.8), score(0.78), 600)
    assert result == {"gain": pytest.approx(0.02), "noise": pytest.approx(noise), "verdict": "unclear"}
    assert compare(score(0.9), score(0.8), 600)["verdict"] == "better"
    assert compare(score(0.8), score(0.9), 600)["verdict"] == "worse"
    assert compare(score(0.9), score(0.8), 30)["verdict"] == "unclear"
    assert compare(score(1.0), score(1.0), 30)["verdict"] == "unclear"


def test_draws_that_disagree_are_noise_too():
    first, second = [0.9, 0.6, 0.9], [0.6, 0.7, 0.7]
    result = compare(score(0.8, first), score(2 / 3, second), 10**6)
    assert result["noise"] == pytest.approx(2 * np.subtract(first, second).std(ddof=1) / math.sqrt(3))
    assert result["verdict"] == "unclear"
    assert compare(score(0.8, [0.8, 0.7, 0.9]), score(0.7, [0.7, 0.6, 0.8]), 10**6)["verdict"] == "better"


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("better", "Pretraining helped fine-tuning."),
        ("worse", "Pretraining hurt fine-tuning."),
        ("unclear", "Fine-tuning shows no clear effect of pretraining."),
    ],
)
def test_words_follow_the_verdict(finished, verdict, said):
    _, results, _ = finished
    changed = results | {
        "against_untrained": {
            name: value | {"verdict": verdict} for name, value in results["against_untrained"].items()
        }
    }
    words = report_text(changed)
    assert words.startswith(f"# What this run learned\n\n{said}")
    others = {
        "better": "is better than",
        "worse": "is worse than",
        "unclear": "No clear difference between the frozen",
    }
    assert [name for name, phrase in others.items() if f"{phrase}" in words.split("| accuracy")[0]] == [verdict]


def test_tables_are_aligned():
    assert markdown_table(["a", "long head"], [["longer", "1"]]).splitlines() == [
        "| a      | long head |",
        "| ------ | --------: |",
        "| longer |         1 |",
    ]


# The recipe's section


def test_settings_from_a_recipe():
    settings = ReportArguments.from_dict({"layer": "average", "fine_tune_learning_rates": [1, 5e-4], "draws": 5})
    assert settings.fine_tune_learning_rates == [1.0, 5e-4]
    assert ReportArguments(layer=-2).layer == -2 and ReportArguments().layer is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"draw": 3}, r"report\.draw = 3 .*did you mean 'draws'"),
        ({"draws": 1}, r"report\.draws = 1 .*2 or more"),
        ({"layer": "mean"}, r"report\.layer = 'mean'"),
        ({"labels_per_class": 0}, r"report\.labels_per_class = 0 .*1 or more"),
        ({"fine_tune_batch_size": 1}, r"report\.fine_tune_batch_size = 1 .*2 or more"),
        ({"fine_tune_learning_rates": []}, r"report\.fine_tune_learning_rates = \[\]"),
        ({"fine_tune_learning_rates": [-1.0]}, r"report\.fine_tune_learning_rates = \[-1\.0\]"),
    ],
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ReportArguments.from_dict(values)


def test_too_many_labels_a_class_are_refused(tmp_path):
    with pytest.raises(ValueError, match="labels_per_class = 50 is invalid"):
        report(tmp_path, labels_per_class=50)
