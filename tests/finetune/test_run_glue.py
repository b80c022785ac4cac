"""finetune/run_glue.py as a user runs it: GLUE tasks, own tables, sweeps; what it leaves opens in a pipeline."""

import json
import re
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from data2vec.finetune import runner
from data2vec.finetune.run_glue import main
from data2vec.finetune.text.glue_tasks import GLUE
from tests.finetune.encoders import FAMILIES, encoder_folder
from tests.finetune.texts import BAD, GOOD, glue_folder, text
from tests.warm import warm_python


SHARED = Path(__file__).parents[3] / "shared" / "data"
TRAINING = {
    "max_steps": 40,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "learning_rate": 1e-2,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    quiet = {
        "v1": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "v2": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    }
    return {family: str(encoder_folder(folder / family, "text", family, **quiet[family])) for family in FAMILIES}


@pytest.fixture(scope="module")
def glue(tmp_path_factory) -> Path:
    return glue_folder(tmp_path_factory.mktemp("glue"), ("sst2", "mnli", "stsb", "rte"))


def write_recipe(folder: Path, glue: Path, encoder: str, **sections: dict) -> str:
    recipe = {
        "model": {"model_name_or_path": encoder},
        "data": {"glue": str(glue), **sections.pop("data", {})},
        "task": sections.pop("task", {}),
        "training": {**TRAINING, "output_dir": str(folder / "run"), **sections.pop("training", {})},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "recipe.yaml")


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sst2(encoders, glue, tmp_path_factory) -> dict[str, Path]:
    """A finished run of each family."""
    runs = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        assert main([write_recipe(folder, glue, encoders[family]), "--task_name", "sst2"]) == 0
        runs[family] = folder / "run"
    return runs


def test_a_task_is_learned(sst2, family):
    found = results_of(sst2[family])["validation"]
    assert found["accuracy"] > 0.9 and found["score"] == found["accuracy"] and found["examples"] == 47


def test_every_prediction_is_written(sst2, glue, family):
    rows = lines_of(sst2[family] / "predictions" / "validation.jsonl")
    source = datasets.Dataset.from_parquet(str(next((glue / "sst2").glob("validation*"))))
    assert [row["input"] for row in rows] == source["sentence"][:]
    assert [row["label"] for row in rows] == [GLUE["sst2"].labels[label] for label in source["label"][:]]
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert right == pytest.approx(results_of(sst2[family])["validation"]["accuracy"])
    for row in rows:
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-4)
        assert max(row["scores"], key=row["scores"].get) == row["prediction"]
    assert (sst2[family] / "predictions" / "validation_confusion.csv").is_file()
    assert (sst2[family] / "predictions" / "validation_errors.md").is_file()


def test_the_folder_opens_in_a_pipeline(sst2, family):
    classify = pipeline("text-classification", model=str(sst2[family]), device="cpu")
    said = classify(["the and of good to", "that bad is on the"])
    assert [answer["label"] for answer in said] == ["positive", "negative"]
    assert len(classify("the " * 500, truncation=True)) == 1  # the tokenizer knows how much the encoder reads


def test_the_folders_open_without_this_package(sst2, tmp_path):
    code = (
        "import sys; sys.modules['data2vec'] = None\n"
        "from transformers import pipeline\n"
        "for folder, trust in ((sys.argv[1], False), (sys.argv[2], True)):\n"
        "    model = pipeline('text-classification', model=folder, device='cpu', trust_remote_code=trust)\n"
        "    print(model('the and of good to')[0]['label'])\n"
    )
    command = [warm_python(), "-c", code, str(sst2["v1"]), str(sst2["v2"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["positive", "positive"], done.stderr[-2000:]


def test_mnli_is_measured_on_both_sets_and_submitted(encoders, glue, tmp_path):
    recipe = write_recipe(tmp_path, glue, encoders["v1"], training={"max_steps": 3})
    assert main([recipe, "--task_name", "mnli", "--predict_test", "true"]) == 0
    results = results_of(tmp_path / "run")
    assert {name for name in results if name.startswith("validation")} == {"validation", "validation_mismatched"}
    predictions = tmp_path / "run" / "predictions"
    for name, split in (("MNLI-m", "test_matched"), ("MNLI-mm", "test_mismatched")):
        lines = (predictions / f"{name}.tsv").read_text().splitlines()
        rows = lines_of(predictions / f"{split}.jsonl")
        assert lines[0] == "index\tprediction" and len(lines) == 1 + 23
        assert lines[1:] == [f"{i}\t{row['prediction']}" for i, row in enumerate(rows)]
        assert {row["label"] for row in rows} == {None}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_a_score_is_regressed(encoders, glue, tmp_path, family):
    arguments = ["--task_name", "stsb", "--predict_test", "true", "--max_steps", "150"]
    assert main([write_recipe(tmp_path, glue, encoders[family]), *arguments]) == 0
    found = results_of(tmp_path / "run")["validation"]
    assert found["pearson"] > 0.8 and found["score"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run")
    assert model.config.num_labels == 1 and model.config.problem_type == "regression"
    row = lines_of(tmp_path / "run" / "predictions" / "validation.jsonl")[3]
    first, second = row["input"].split(" || ")
    logits = model(**AutoTokenizer.from_pretrained(tmp_path / "run")(first, second, return_tensors="pt")).logits
    assert float(logits) == pytest.approx(row["prediction"], abs=1e-4)
    assert row["error"] == pytest.approx((row["prediction"] - row["label"]) ** 2, abs=1e-4)
    submitted = (tmp_path / "run" / "predictions" / "STS-B.tsv").read_text().splitlines()[1:]
    assert all(0 <= float(line.split("\t")[1]) <= 5 for line in submitted) and len(submitted) == 23


def test_own_tables_of_text_and_of_pairs(encoders, tmp_path):
    rng = np.random.default_rng(0)
    words = [str(rng.choice(GOOD + BAD)) for _ in range(150)]
    table = {"title": [text(rng, "the") for _ in words], "body": [text(rng, word) for word in words]}
    table["mood"] = ["up" if word in GOOD else "down" for word in words]
    datasets.Dataset.from_dict(table).to_csv(str(tmp_path / "train.csv"))
    datasets.Dataset.from_dict({"title": ["the of"], "body": ["was good"]}).to_json(str(tmp_path / "new.jsonl"))
    recipe = write_recipe(tmp_path, tmp_path, encoders["v2"])
    arguments = ["--train", f"{{path: {tmp_path}/train.csv, label_column: mood}}", "--validation_share", "0.2"]
    arguments += ["--text_columns", "[title, body]", "--test", f"{{path: {tmp_path}/new.jsonl}}"]
    assert main([recipe, *arguments]) == 0
    found = results_of(tmp_path / "run")
    assert found["validation"]["accuracy"] > 0.85 and found["validation"]["examples"] == 30
    (new,) = lines_of(tmp_path / "run" / "predictions" / "test.jsonl")
    assert new["prediction"] == "up" and new["label"] is None and "test" not in found


def test_an_unusable_row_is_named_or_left_out(encoders, tmp_path, capsys):
    table = {"text": ["was good", "was bad"] * 9 + ["", "the of", "is"], "label": ["up", "down"] * 10 + ["sideways"]}
    datasets.Dataset.from_dict(table).to_csv(str(tmp_path / "rows.csv"))
    recipe = write_recipe(tmp_path, tmp_path, encoders["v1"], training={"max_steps": 1})
    arguments = [recipe, "--train", f"{{path: {tmp_path}/rows.csv}}", "--labels", "[down, up]"]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "data.train, row 18: its text is empty" in said and "data.skip_bad = true" in said
    assert main([*arguments, "--skip_bad", "true"]) == 0
    found = results_of(tmp_path / "run")["run"]
    assert found["left_out"] == {"train": {"empty": 1, "unknown label": 1}} and found["train_examples"] == 19


def test_a_class_that_train_does_not_have_is_not_the_one_at_its_number(encoders, tmp_path, capsys):
    texts = ["the of", "was good", "is bad"]
    for name, labels in (("train", [0, 2, 4]), ("test", [0, 1, 4])):
        datasets.Dataset.from_dict({"text": texts, "label": labels}).to_csv(str(tmp_path / f"{name}.csv"))
    recipe = write_recipe(tmp_path, tmp_path, encoders["v1"], training={"max_steps": 1, "eval_strategy": "no"})
    arguments = [recipe, "--train", f"{{path: {tmp_path}/train.csv}}", "--test", f"{{path: {tmp_path}/test.csv}}"]
    arguments += ["--load_best_model_at_end", "false"]
    assert main(arguments) == 2
    assert "data.test, row 1: its label '1' is not one of 0, 2, 4" in capsys.readouterr().err
    assert main([*arguments, "--skip_bad", "true"]) == 0
    rows = lines_of(tmp_path / "run" / "predictions" / "test.jsonl")
    assert [(row["id"], row["label"]) for row in rows] == [(0, "0"), (2, "4")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task_name", "colla"], "data.task_name = 'colla' is invalid: use one of mnli"),
        (["--task_name", "qqp"], "has no such folder, it has mnli, rte, sst2, stsb"),
        (["--task_name", "rte", "--max_tokens", "99"], "data.max_tokens = 99 .* the encoder has positions for 62"),
        ([], "data.train = None is invalid"),
        (["--sweep.tasks", "all"], "task.sweep.learning_rates = .* name one or more"),
        (["--sweep.tasks", "[rte, imdb]", "--sweep.learning_rates", "[1e-3]"], "task.sweep.tasks .* use all or some"),
        (["--sweep.lerning_rates", "[1e-3]"], "task.sweep.lerning_rates .* did you mean 'learning_rates'"),
        (["--task_name", "rte", "--per_task.rte.trainin.seed", "1"], "task.per_task.rte.trainin"),
        (["--per_task.imdb.training.seed", "1", "--task_name", "rte"], "'imdb' is not a task of GLUE"),
        (
            ["--task_name", "rte", "--sweep", "{tasks: all, learning_rates: [1e-3]}"],
            "data.task_name = 'rte' does not work in a sweep: set task.sweep.tasks",
        ),
        (
            ["--learning_rate", "1e-4", "--sweep", "{tasks: all, learning_rates: [1e-3]}"],
            "training.learning_rate = 0.0001 does not work in a sweep: set task.sweep.learning_rates",
        ),
    ],
)
def test_what_cannot_be_is_refused(encoders, glue, tmp_path, capsys, arguments, message):
    assert main([write_recipe(tmp_path, glue, encoders["v1"]), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert re.search(message, said), said


def test_the_command_line_is_above_what_a_task_changes(encoders, glue, tmp_path):
    per_task = {"rte": {"training": {"per_device_train_batch_size": 4, "weight_decay": 0.25}}}
    recipe = write_recipe(tmp_path, glue, encoders["v1"], task={"per_task": per_task}, training={"max_steps": 1})
    assert main([recipe, "--task_name", "rte", "--weight_decay", "0.125"]) == 0
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["training"]["per_device_train_batch_size"] == 4 and written["training"]["weight_decay"] == 0.125
    assert written["task"] == {}


def test_a_sweep_prints_the_row_and_goes_on_where_it_stopped(encoders, glue, tmp_path, capsys, monkeypatch):
    sweep = {"learning_rates": [1e-3, 5e-3], "seeds": [3, 5]}
    training = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    recipe = write_recipe(tmp_path, glue, encoders["v1"], task={"sweep": sweep}, training=training)
    run, arguments = tmp_path / "run", [recipe, "--sweep.tasks", "[rte, stsb]"]

    def evaluate(*arguments):
        done.append(evaluate_really(*arguments) if len(done) < 3 else _interrupt())
        return done[-1]

    done, evaluate_really = [], runner._evaluate
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "_evaluate", evaluate)
        main(arguments)
    finished = {file: file.stat().st_mtime_ns for file in run.glob("rte/*/results.json")}
    assert len(finished) == 3 and not list(run.glob("stsb/*"))
    assert list(run.glob("*/*/checkpoint-6")) == [run / "rte" / "lr_0.005_seed_5" / "checkpoint-6"]

    assert main(arguments) == 0
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())  # nothing is done twice
    said = capsys.readouterr().out
    assert "[8/8] STS-B, learning rate 0.005, seed 5" in said and "Not run: MNLI, QNLI, MRPC, QQP, CoLA, SST-2" in said
    row = json.loads((run / "glue_row.json").read_text())
    for task in ("rte", "stsb"):
        scores = {
            rate: [results_of(run / task / f"lr_{rate}_seed_{seed}")["validation"]["score"] for seed in (3, 5)]
            for rate in ("0.001", "0.005")
        }
        assert row["tasks"][task]["score"] == pytest.approx(max(np.median(values) for values in scores.values()))
        weights = list(run.glob(f"{task}/*/model.safetensors"))
        best = max(scores[rate][i] for rate in scores for i in (0, 1))
        assert len(weights) == 1 and results_of(weights[0].parent)["validation"]["score"] == best
    assert row["average"] == pytest.approx((row["tasks"]["rte"]["score"] + row["tasks"]["stsb"]["score"]) / 2)
    assert not list(run.glob("*/*/checkpoint-*"))

    assert main([*arguments, "--sweep.seeds", "[3, 5, 7]", "--sweep.tasks", "rte"]) == 0  # a seed more
    assert len(list(run.glob("rte/*/results.json"))) == 6
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())


def test_a_task_asked_for_is_one_run_of_a_recipe_with_a_sweep(encoders, glue, tmp_path, capsys):
    sweep = {"learning_rates": [1e-3, 5e-3], "seeds": [3, 5], "tasks": ["rte", "stsb"]}
    recipe = write_recipe(tmp_path, glue, encoders["v1"], task={"sweep": sweep}, training={"max_steps": 1})
    assert main([recipe, "--task_name", "sst2"]) == 0
    assert [file.parent for file in tmp_path.rglob("results.json")] == [tmp_path / "run"]
    assert f"data2vec card {tmp_path / 'run'}\n" in capsys.readouterr().out, "what comes next"
    written = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert written["data"]["task_name"] == "sst2"


def _interrupt():
    raise KeyboardInterrupt


def test_all_means_the_tasks_that_a_folder_has(encoders, glue, tmp_path, caplog):
    sweep = {"learning_rates": [1e-3], "seeds": [0], "tasks": "all"}
    recipe = write_recipe(tmp_path, glue, encoders["v2"], task={"sweep": sweep}, training={"max_steps": 1})
    assert main([recipe]) == 0
    row = json.loads((tmp_path / "run" / "glue_row.json").read_text())
    assert set(row["tasks"]) == {"mnli", "rte", "stsb", "sst2"} and row["missing"] == ["QNLI", "MRPC", "QQP", "CoLA"]
    assert set(row["tasks"]["mnli"]["splits"]) == {"validation_matched", "validation_mismatched"}
    assert "QQP is left out" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_real_glue(encoders, tmp_path, task):
    if not (SHARED / "glue_small").is_dir():
        pytest.skip("needs ../shared/data/glue_small")
    recipe = write_recipe(tmp_path, SHARED / "glue_small", encoders["v1"], training={"max_steps": 2})
    assert main([recipe, "--task_name", task]) == 0
    assert results_of(tmp_path / "run")["validation"]["examples"] == {"rte": 277, "stsb": 1500}[task]
