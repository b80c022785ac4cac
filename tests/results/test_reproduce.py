"""The runner of docs/results: a claim is trained, measured, drawn and written; what is on the page is in the data."""

import io
import json
import re
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import comparisons
import datasets
import experiment
import measure
import numpy as np
import prepare
import pytest
import reproduce
import tables
import yaml
from PIL import Image
from prepare import Prepared
from scipy.stats import ttest_rel

from data2vec.pretraining.evaluation.probe import knn_accuracy


RESULTS = Path(__file__).parents[2] / "docs" / "results"
CLAIMS = sorted(path.stem for path in (RESULTS / "claims").glob("*.yaml"))
MEASURED = [name for name in CLAIMS if (RESULTS / "data" / f"{name}.json").is_file()]


def square(label: int, rng: np.random.Generator) -> dict[str, bytes]:
    pixels = rng.integers(0, 200, (28, 28), dtype=np.uint8)
    pixels[5 * label : 5 * label + 9, 3:20] += 15  # hard enough that encoders differ
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA with a Fashion-MNIST of three classes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    for split, number in {"train": 270, "test": 60}.items():
        rows = [{"image": square(i % 3, rng), "label": i % 3} for i in range(number)]
        path = folder / "fashion_mnist_small" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(path)
    return folder


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of docs/results with one claim, short runs and few images."""
    for name, number in {"VALIDATION": 60, "LABELLED": 120, "TEST": 45, "ONLINE": 30}.items():
        monkeypatch.setattr(prepare, name, number)
    monkeypatch.setattr(measure, "FINE_TUNE_STEPS", 2)
    monkeypatch.setattr(measure, "DRAWS", 2)
    (tmp_path / "page").mkdir()
    shutil.copytree(RESULTS / "systems", tmp_path / "page" / "systems")
    (tmp_path / "page" / "data").mkdir()
    (tmp_path / "page" / "pictures").mkdir()
    (tmp_path / "page" / "claims").mkdir()
    short = {
        "objective.ema_anneal_steps": 2,
        "training.max_steps": 4,
        "training.logging_steps": 2,
        "training.probe_steps": 2,
    }
    claim = {
        "title": "Two layers beat one",
        "paper": "so it says",
        "systems": ["vision_v1"],
        "arms": {
            "1": {"objective.top_k_layers": 1, **short},
            "input": {"method": "reconstruction", **short},
        },
        "picture": {"kind": "clock"},
        "seeds": 2,
        "fine_tune": True,
        "headline": [{"system": "vision_v1", "better": "input/student/knn", "worse": "1/student/knn"}],
    }
    (tmp_path / "page" / "claims" / "two.yaml").write_text(yaml.safe_dump(claim, sort_keys=False))
    (tmp_path / "page" / "data" / "order.json").write_text('["two"]')
    lines = "# Page\n\n<!-- undecided -->\n<!-- end -->\n\n<!-- decided -->\n<!-- end -->\n"
    (tmp_path / "page" / "README.md").write_text(lines)
    blocks = "<!-- claim two -->\n<!-- end -->\n\nWords.\n\n<!-- numbers of two -->\nstale\n<!-- end -->\n"
    (tmp_path / "page" / "two.md").write_text(blocks)
    monkeypatch.setattr(experiment, "HERE", tmp_path / "page")
    monkeypatch.setattr(reproduce, "HERE", tmp_path / "page")
    monkeypatch.setattr(experiment, "SYSTEMS", experiment.SYSTEMS)
    experiment.prepared.cache_clear()
    return tmp_path / "page"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", *words])
    reproduce.main()


def test_a_claim_is_trained_measured_drawn_and_written_once(
    page: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("two", "--data", str(data), "--runs", str(tmp_path / "runs"), "--workers", "1")
    run(monkeypatch, *words)
    found = json.loads((page / "data" / "two.json").read_text())
    arms = found["systems"]["vision_v1"]["arms"]
    assert list(arms) == ["1", "input"]
    for arm in arms.values():
        assert [seed["seed"] for seed in arm["seeds"]] == [0, 1]
        for seed in arm["seeds"]:
            assert seed["updates"] == 4 and seed["seconds"] > 0
            assert seed["probe"]["step"] == [0, 2, 4]
            assert all(0 <= seed[which][m] <= 100 for which in measure.ENCODERS for m in tables.MEASURES)
            assert set(seed["fine_tuned"]) == {"student", "untrained", "seconds"}
    one, two = (arms[name]["seeds"][0] for name in ("1", "input"))
    assert one["untrained"] == two["untrained"] and one["student"] != one["untrained"]
    assert arms["1"]["seeds"][0]["untrained"] != arms["1"]["seeds"][1]["untrained"]
    assert set(found["systems"]["vision_v1"]["raw"]) == {"pixels"}
    assert (page / "pictures" / "two.png").stat().st_size > 5000

    assert (page / "pictures" / "effects.png").stat().st_size > 5000
    assert (page / "README.md").read_text().count("| [Two layers beat one](two.md) | ") == 1

    text = (page / "two.md").read_text()
    assert "Words." in text and "stale" not in text
    assert "**Two layers beat one.** The papers: so it says." in text
    assert "| data2vec 1, Fashion-MNIST, k-NN: input " in text
    assert tables.spread([seed["student"]["linear"] for seed in arms["input"]["seeds"]]) in text

    # again: nothing is trained, the numbers are the same
    def never(*_: object) -> int:
        raise AssertionError("trained again")

    monkeypatch.setattr(experiment.run, "pretrain", never)
    monkeypatch.setattr(reproduce, "get_context", lambda _: get_context("fork"))  # which imports nothing again
    for workers in ("1", "2"):  # processes of their own find the same runs
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the command sets for them; here it ends with the test
        run(monkeypatch, *words[:-1], workers)
        again = json.loads((page / "data" / "two.json").read_text())
        assert again["systems"] == found["systems"]
    run(monkeypatch, "two", "--draw")


def test_the_measures_are_those_of_the_encoder_in_the_folder(page: Path, data: Path, tmp_path: Path) -> None:
    fields = {"objective.ema_anneal_steps": 1, "training.max_steps": 2, "training.logging_steps": 1}
    one = experiment.Experiment("vision_v1", fields, 0, data, tmp_path / "runs")
    one.pretrain()
    found = measure.measured(one, ["student", "untrained"], layers="all")
    layers = len(found["student"]["knn"])
    assert (
        layers == 1 + yaml.safe_load((page / "systems" / "vision_v1.yaml").read_text())["model"]["num_hidden_layers"]
    )
    assert measure.measured(one, ["student"])["student"]["knn"] == found["student"]["knn"][-1]

    labelled = measure.Data(one)
    encoder = labelled.encoder("student").eval()
    pooled = []
    for split in (labelled.train, labelled.test):
        images = labelled.data.probe_collator(split)["pixel_values"]
        # by hand: the mean over patches of the last hidden state, without the CLS token in front
        pooled.append(encoder(pixel_values=images).last_hidden_state[:, 1:].mean(1).detach().numpy())
    labels = [np.array([example["labels"] for example in split]) for split in (labelled.train, labelled.test)]
    by_hand = knn_accuracy(pooled[0], labels[0], pooled[1], labels[1])
    assert found["student"]["knn"][-1] == pytest.approx(100 * by_hand, abs=0.01)


def test_spoken_digits_are_split_by_speaker(tmp_path: Path) -> None:
    names = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    rows = [{"digit": i % 10, "speaker_id": names[i % 6], "n": i} for i in range(3600)]
    path = tmp_path / "spoken_digits" / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows).to_parquet(path)
    found = prepare.spoken_digits(tmp_path, tmp_path / "out")
    of = {
        part: set(datasets.Dataset.from_parquet(str(tmp_path / "out" / f"{part}.parquet"))["speaker_id"])
        for part in ("pretrain", "test/train", "test/test", "validation/train", "validation/test")
    }
    assert of["test/test"] == {"theo", "yweweler"} and of["validation/test"] == {"nicolas"}
    assert not of["pretrain"] & of["test/test"] and not of["test/train"] & of["test/test"]
    assert not of["validation/train"] & (of["validation/test"] | of["test/test"])
    assert found.source == str(tmp_path / "out" / "pretrain.parquet")


@pytest.mark.parametrize(
    ("better", "worse", "says"),
    [
        ([3, 4], [1, 2], "yes"),
        ([1, 2], [3, 4], "no, the reverse"),
        ([2, 5], [1, 3], "undecided, leans to yes"),
        ([1, 3], [2, 5], "undecided, leans to no"),
    ],
)
def test_a_claim_holds_where_every_seed_is_above_every_other(
    better: list[float], worse: list[float], says: str
) -> None:
    assert comparisons.verdict(better, worse) == says


def test_a_row_names_what_differs_between_its_sides() -> None:
    def system(family: str, **arms: float) -> dict[str, Any]:
        seeds = {arm: {"seeds": [{"student": {"knn": knn}}]} for arm, knn in arms.items()}
        return {"title": f"{family}, images", "arms": seeds}

    found = {
        "systems": {
            "v1": system("data2vec 1", **{"as it is": 60.0}),
            "v2": system("data2vec 2.0", four=70.0, one=65.0),
        }
    }
    rows = {
        "data2vec 2.0, images, k-NN: four 70.0, one 65.0": {"better": "four/student/knn", "worse": "one/student/knn"},
        "images, k-NN: data2vec 2.0, four 70.0, data2vec 1 60.0": {
            "better": "four/student/knn",
            "than": "v1",
            "worse": "as it is/student/knn",
        },
    }
    for text, pair in rows.items():
        (row,) = comparisons.comparisons("two", found | {"headline": [{"system": "v2", **pair}]})
        assert (row.said, row.holds, row.decided) == (text, "one seed, leans to yes", False)
        assert row.shown in ("+5.0", "+10.0")


def test_an_effect_has_students_interval_of_the_differences_of_seeds() -> None:
    better, worse = [3.0, 5.0, 7.0], [1.0, 4.0, 4.0]
    expected = ttest_rel(better, worse)
    interval = expected.confidence_interval(0.95)
    assert comparisons.effect(better, worse) == pytest.approx((2.0, interval.low, interval.high))
    assert comparisons.compare("", better, worse).shown == f"+2.0 ({interval.low:.1f} to {interval.high:.1f})"
    assert comparisons.compare("", worse, better).shown.startswith("-2.0 (")


@pytest.mark.parametrize(
    ("holds", "says"),
    [
        (["undecided, leans to no"], "undecided, leans to no"),
        (["yes", "yes"], "2 of 2 yes"),
        (["undecided, leans to yes", "yes", "no, the reverse"], "1 of 3 yes, 1 no, the reverse, 1 undecided"),
        (["no", "undecided, leans to no"], "1 of 2 no, 1 undecided"),
    ],
)
def test_a_line_counts_what_holds(holds: list[str], says: str) -> None:
    assert comparisons.summary([comparisons.Comparison("", each, (0.0,)) for each in holds]) == says


def test_minutes_count_every_training_and_every_measurement_once() -> None:
    def seed(number: int, wall: float) -> dict[str, Any]:
        return {
            "seed": number,
            "wall_seconds": wall,
            "student": {"knn": 1.0, "seconds": 5.0},
            "untrained": {"knn": 1.0, "seconds": 30.0},  # of both arms the same network
            "probe": {"seconds": [1.0, 2.0]},  # inside of the training
        }

    arms = {"one": {"seeds": [seed(0, 100.0), seed(1, 110.0)]}, "two": {"seeds": [seed(0, 120.0), seed(1, 130.0)]}}
    some = {"arms": arms, "data": "some", "raw_seconds": 60.0}
    assert tables.minutes({"systems": {"some": some}}) == "10"  # 460 + 4 x 5 + 2 x 30 + 60 = 600 s
    assert tables.minutes({"wall_seconds": 120.0, "systems": {}}) == "2"


@pytest.mark.parametrize("name", CLAIMS)
def test_every_arm_of_every_claim_can_be_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "prepared", lambda *_: Prepared(str(tmp_path), tmp_path))
    claim = reproduce.Claim.read(name)
    for system, arms in claim.systems.items():
        run = experiment.Experiment(system, {}, 0, tmp_path, tmp_path)
        plain_class, folders = run.arguments().model_class, set()
        for arm in arms:
            fields = claim.arms[arm] or {}
            arm_run = experiment.Experiment(system, fields, 0, tmp_path, tmp_path)
            if arm_run.teacher is not None:
                arm_run.teacher.arguments().config.save_pretrained(arm_run.teacher.folder)
            asked = arm_run.arguments()
            assert asked.training.guard_patience == 0  # a collapse does not end the run
            folders.add(arm_run.folder)
            assert (asked.model_class is not plain_class) == ("method" in fields)
        assert len(folders) == len(arms), f"two arms of {system} are the same run"
    for pair in claim.headline:
        assert pair["better"].split("/")[0] in claim.systems[pair["system"]]
        assert pair["worse"].split("/")[0] in claim.systems[pair.get("than", pair["system"])]


@pytest.mark.parametrize("name", MEASURED)
def test_the_data_answer_what_the_claim_asks(name: str) -> None:
    claim, found = reproduce.Claim.read(name), json.loads((RESULTS / "data" / f"{name}.json").read_text())
    assert (found["claim"], found["paper"], found["headline"]) == (claim.title, claim.paper, claim.headline)
    for system, arms in claim.systems.items():
        for arm in arms:
            runs = found["systems"][system]["arms"][arm]
            assert runs["fields"] == (claim.arms[arm] or {}) and len(runs["seeds"]) == claim.seeds
    assert (RESULTS / "pictures" / f"{name}.png").is_file()


def test_the_tables_of_the_pages_are_those_of_the_data(tmp_path: Path) -> None:
    order = json.loads((RESULTS / "data" / "order.json").read_text())
    assert set(CLAIMS) <= set(order)
    shutil.copytree(RESULTS / "data", tmp_path / "data")
    for page in RESULTS.glob("*.md"):
        shutil.copy(page, tmp_path)
        shown = re.findall(r"<!-- (?:claim|numbers of) (\w+) -->", page.read_text(encoding="utf-8"))
        assert shown == ([] if page.name == "README.md" else [page.stem, page.stem])
    assert {page.stem for page in tmp_path.glob("*.md")} == {"README", *order}
    tables.write_tables(tmp_path)
    for page in RESULTS.glob("*.md"):
        assert (tmp_path / page.name).read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), page.name


def test_nothing_stands_on_the_pages_that_was_not_measured() -> None:
    opening = (RESULTS / "README.md").read_text(encoding="utf-8")
    for name in json.loads((RESULTS / "data" / "order.json").read_text()):
        command = json.loads((RESULTS / "data" / f"{name}.json").read_text())["command"]
        assert (RESULTS / command.split()[1].removeprefix("docs/results/")).is_file()
        assert opening.count(f"]({name}.md) |") == 1, f"{name} has no line"
    for page in RESULTS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert "Not measured" not in text
        for picture in re.findall(r"\]\((pictures/\w+\.png)\)", text):
            assert (RESULTS / picture).stat().st_size > 5000
