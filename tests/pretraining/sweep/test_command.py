"""A sweep as a user starts it: trials, what they leave, interrupted, with trials that fail, and slips."""

import json
import os
import signal
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoModel

from data2vec.pretraining import command_line, run
from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.console.help import EXIT_PREEMPTED, EXIT_REFUSED
from data2vec.pretraining.monitoring.callbacks import CollapseGuard
from data2vec.pretraining.sweep import command as sweep


optuna = pytest.importorskip("optuna", reason="needs the extra `sweep`")

SMALL = [
    "--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", "--ema_anneal_steps", "4", "--probe_steps", "4",
    "--per_device_train_batch_size", "8", "--model.num_hidden_layers", "2", "--top_k_layers", "2", "--report", "null",
    "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true", "--save_total_limit", "3",
    "--model.hidden_size", "16", "--model.intermediate_size", "24", "--model.num_attention_heads", "2",
]  # fmt: skip
SPACE = {
    "objective.top_k_layers": {"low": 1, "high": 2},
    "masking.ratio": {"choices": [0.25, 0.75]},
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
DATA: list[str] = []
WITHOUT_LABELS = ["--probe", "null", "--measure", "feature_rank_student"]


def start(folder: Path, *words: str, space: object = SPACE, trials: int = 3) -> int:
    """The command; a field that is given twice has its last value."""
    fields = ["--space", json.dumps(space), "--trials", str(trials), "--output_dir", str(folder)]
    return sweep.main(["demo_vision.yaml", *SMALL, *DATA, *fields, *words])


def results(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text())


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


@pytest.fixture(scope="module", autouse=True)
def digits(tmp_path_factory) -> None:
    """What every sweep here trains on and probes with: few images, so that a trial takes a second."""
    folder = tmp_path_factory.mktemp("data")
    images = [Image.fromarray((image * 15).astype(np.uint8)) for image in load_digits().images[:120]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(10)})
    for name, rows in (("train", slice(60)), ("test", slice(60, 120))):
        columns = {"image": images[rows], "label": [int(label) for label in load_digits().target[:120][rows]]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{name}.parquet")
    DATA[:] = ["--sources", json.dumps([{"path": str(folder / "train.parquet")}]), "--data.probe.path", str(folder)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "mine"
    assert start(folder) == 0
    return folder


def test_every_trial_is_a_run_with_the_values_drawn_for_it(finished):
    found = results(finished)
    assert [trial["run"] for trial in found["trials"]] == ["run-0", "run-1", "run-2"]
    ratios = set()
    for trial in found["trials"]:
        values, folder = trial["values"], finished / trial["run"]
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        assert recipe["objective"]["top_k_layers"] == values["objective.top_k_layers"] in (1, 2)
        assert recipe["training"]["learning_rate"] == values["learning_rate"]
        assert 1e-4 <= values["learning_rate"] <= 1e-2
        assert "sweep" not in recipe and "report" not in recipe
        stored = json.loads((folder / "config.json").read_text())["objective"]
        assert stored["top_k_layers"] == values["objective.top_k_layers"], "the model is the trial's"
        masked = [log["masked_fraction"] for log in log_of(folder) if "masked_fraction" in log]
        assert masked == pytest.approx([values["masking.ratio"]] * 4, abs=0.15), "and so are the masks"
        ratios.add(values["masking.ratio"])
        assert trial["value"] == [log for log in log_of(folder) if "probe/knn_student" in log][-1]["probe/knn_student"]
    assert ratios == {0.25, 0.75}
    assert len({trial["values"]["learning_rate"] for trial in found["trials"]}) == 3


def test_measures_with_and_without_labels_are_kept_and_the_best_is_the_best(finished):
    found = results(finished)
    for trial in found["trials"]:
        assert trial["state"] == "finished" and trial["message"] is None
        names = {"probe/knn_student", "probe/knn_teacher", "effective_rank", "position_std", "target_std", "loss"}
        assert names | {"feature_rank_student", "feature_rank_teacher"} <= set(trial["measures"])
        assert trial["value"] == trial["measures"]["probe/knn_student"]
    best = max(found["trials"], key=lambda trial: trial["value"])
    assert (
        found["measure"] == "probe/knn_student" and found["direction"] == "maximize" and found["best"] == best["run"]
    )


def test_feature_rank_is_the_entropy_of_the_singular_values(finished):
    asked = parse_arguments([str(finished / "run-0" / "recipe.yaml")])
    examples = run.open_data(asked).train_dataset
    images = torch.stack([torch.as_tensor(np.asarray(examples[i]["pixel_values"])) for i in range(len(examples))])
    encoder = AutoModel.from_pretrained(finished / "run-0").eval()
    with torch.no_grad():
        features = encoder(pixel_values=images).last_hidden_state[:, 1:].mean(1).double().numpy()
    singular = np.linalg.svd(features - features.mean(0), compute_uv=False)
    share = singular / singular.sum()
    rank = results(finished)["trials"][0]["measures"]["feature_rank_student"]
    assert rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-3)


def test_the_best_recipe_repeats_the_best_trial(finished):
    found = results(finished)
    (best,) = [trial for trial in found["trials"] if trial["run"] == found["best"]]
    assert run.main([str(finished / "best.yaml")]) == 0
    log = log_of(finished / "best")
    assert [entry for entry in log if "probe/knn_student" in entry][-1]["probe/knn_student"] == best["value"]
    assert [entry for entry in log if "loss" in entry][-1]["loss"] == best["measures"]["loss"]


def test_an_interrupted_sweep_continues_as_if_it_had_not_been(finished, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"

    class Interrupted(sweep.Watch):
        def on_log(self, args, state, control, **kwargs):
            super().on_log(args, state, control, **kwargs)
            if args.output_dir.endswith("run-1") and state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sweep, "Watch", Interrupted)
    assert start(folder) == EXIT_PREEMPTED
    monkeypatch.undo()
    assert [trial["run"] for trial in results(folder)["trials"]] == ["run-0"]
    assert start(folder) == 0
    assert "continues from checkpoint-" in (folder / "run-1" / "logs" / "rank-0.log").read_text()
    for here, there in zip(results(folder)["trials"], results(finished)["trials"], strict=True):
        assert {name: here[name] for name in ("run", "state", "values", "value")} == {
            name: there[name] for name in ("run", "state", "values", "value")
        }
        assert here["measures"]["loss"] == there["measures"]["loss"]


def test_a_killed_trial_is_run_again_with_its_values(finished, tmp_path, monkeypatch):
    """A kill leaves the trial as running in Optuna's file; here it dies before it has trained."""

    class Killed(BaseException):
        pass

    def die(*args):
        raise Killed

    folder = tmp_path / "sweep"
    monkeypatch.setattr(sweep, "prepare", die)
    with pytest.raises(Killed):
        start(folder, trials=1)
    monkeypatch.undo()
    assert start(folder, trials=1) == 0
    (again,), first = results(folder)["trials"], results(finished)["trials"][0]
    assert (again["run"], again["values"], again["value"]) == ("run-0", first["values"], first["value"])


def test_more_trials_continue_a_finished_sweep_and_none_are_repeated(finished):
    before = {name: (finished / name / "model.safetensors").stat().st_mtime_ns for name in ("run-0", "run-1", "run-2")}
    found = results(finished)
    assert start(finished) == 0
    assert results(finished) == found
    assert {name: (finished / name / "model.safetensors").stat().st_mtime_ns for name in before} == before


def test_trials_that_fail_and_collapse_are_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(CollapseGuard, "__init__", with_limit(CollapseGuard.__init__))
    space = {"objective.top_k_layers": {"choices": [2, 9]}, "guard_patience": {"choices": [0, 1]}}
    words = ["--guard_start_step", "1", "--sampler", "random", "--sweep.seed", "2", *WITHOUT_LABELS]
    assert start(tmp_path, *words, space=space, trials=5) == 0
    found = results(tmp_path)
    for trial in found["trials"]:
        refused, collapsed = trial["values"]["objective.top_k_layers"] == 9, trial["values"]["guard_patience"] == 1
        assert trial["state"] == ("failed" if refused else "collapsed" if collapsed else "finished")
        assert (trial["value"] is None) == (trial["state"] != "finished")
        if refused:
            assert "top_k_layers" in trial["message"] and "9" in trial["message"]
        elif collapsed:
            assert "collapsed" in trial["message"] and "target_std" in trial["measures"]
    assert {trial["state"] for trial in found["trials"]} == {"failed", "collapsed", "finished"}
    assert "failed" in capsys.readouterr().out


def with_limit(init):
    """Every run is below this limit."""
    return lambda self, **kwargs: init(self, min_target_std=10.0, **kwargs)


def test_a_sweep_without_a_finished_trial_says_why(tmp_path, capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sweep, "pretrain", broken)
    assert start(tmp_path, trials=2) == EXIT_REFUSED
    message = capsys.readouterr().err
    assert "No trial has finished (2 failed). The first, run-0: RuntimeError: out of memory" in message
    assert not (tmp_path / "best.yaml").exists()


def test_a_hopeless_trial_is_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(
        optuna.pruners, "MedianPruner", lambda **kwargs: optuna.pruners.PercentilePruner(50, 1, **kwargs)
    )
    space = {"learning_rate": {"choices": [1e-9, 1e-2]}}
    words = ["--measure", "loss", "--pruner", "median", "--probe", "null", "--sampler", "random", "--sweep.seed", "1"]
    assert start(tmp_path, *words, space=space, trials=3) == 0
    trials = results(tmp_path)["trials"]
    assert trials[0]["values"]["learning_rate"] == 1e-2, "a good one first"
    bad = [trial for trial in trials if trial["values"]["learning_rate"] == 1e-9]
    assert bad and all(trial["state"] == "pruned" for trial in bad)
    for trial in bad:
        assert "loss = " in trial["message"] and "worse than the median" in trial["message"]
        assert not (tmp_path / trial["run"] / "model.safetensors").exists()


def test_halving_stops_all_but_the_best_third_at_its_rungs(tmp_path):
    """The recipe's own rate comes first; what is worse after 1 or 3 of 9 steps is no further trained."""
    space = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    words = ["--pruner", "halving", "--include_recipe", "true", "--max_steps", "9", *WITHOUT_LABELS]
    assert start(tmp_path, *words, "--learning_rate", "2e-3", space=space, trials=4) == 0
    trials = results(tmp_path)["trials"]
    assert trials[0]["values"] == {"learning_rate": 2e-3} and trials[0]["state"] == "finished"
    best: dict[str, list[float]] = {"1": [], "3": []}
    for trial in trials:
        for step, value in trial["reported"].items():
            best[step].append(value)
            passed = value == max(best[step])  # of three trials or fewer, the best; of four, too
            assert passed == (str(3 * int(step)) in trial["reported"] or (step == "3" and trial["value"] is not None))
        if trial["state"] == "pruned":
            assert "not of the best third" in trial["message"]
            assert not (tmp_path / trial["run"] / "model.safetensors").exists()
    assert trials[0]["value"] == trials[0]["measures"]["feature_rank_student"] != trials[0]["reported"]["3"]
    assert all(f"step {list(t['reported'])[-1]}" in t["message"] for t in trials if t["state"] == "pruned")


@pytest.mark.parametrize(
    ("words", "space", "message"),
    [
        (
            ["--include_recipe", "true"],
            {"objective.loss_beta": {"choices": [1.0, 4.0]}},
            "must contain the recipe's own value, 0.0",
        ),
        (["--pruner", "halving"], SPACE, "it needs training.max_steps of 9 or more"),
        (
            ["--objective.target_layers", "[0]"],
            SPACE,
            "sweep.space.objective.top_k_layers has no meaning in this recipe: objective.target_layers names the",
        ),
        ([], {"objective.top_k_layer": {"low": 1, "high": 2}}, "did you mean 'top_k_layers'?"),
        ([], {"learning_rat": {"low": 1, "high": 2}}, "--learning_rat is not a field of this recipe. Did you mean"),
        (
            [],
            {"masking.ratios": {"low": 0.1, "high": 0.2}},
            "sweep.space.masking.ratios: masking 'beit_block' cannot be built",
        ),
        (
            [],
            {"learning_rate": {"low": 1e-3}},
            "sweep.space.learning_rate = {'low': 0.001} is invalid: give {low",
        ),
        ([], {"learning_rate": 1e-3}, "give {low: 1, high: 4}, or {choices: [1, 4]}"),
        ([], {"learning_rate": {"low": 2e-3, "high": 1e-3}}, "low is less than high"),
        ([], {"learning_rate": {"low": 0, "high": 1, "log": True}}, "with log: true, low is above 0"),
        ([], {"learning_rate": {"low": 1e-3, "high": 1, "step": 1}}, "'step' is none of low, high, log"),
        ([], {"masking": {"choices": [{"method": "random"}]}}, "choices are numbers, words, true, false or null"),
        ([], {}, "sweep.space = {} is invalid: name a field"),
        (["--measure", "accuracy"], SPACE, "sweep.measure = 'accuracy' is invalid: use one of probe/knn_student"),
        (["--probe", "null"], SPACE, "use a measure without labels"),
        (["--measure", "eval_loss"], SPACE, "give data.eval_sources"),
        (["--pruner", "median", *WITHOUT_LABELS], SPACE, "measured at the end of a trial and for halving"),
        (["--sampler", "grid"], SPACE, "sweep.sampler = 'grid' is invalid: use one of tpe, random"),
        (["--sources", "[{path: nowhere}]"], SPACE, "nowhere"),
        (["--seed", "1"], SPACE, "--seed is a field of training and sweep: use --training.seed or --sweep.seed"),
    ],
)
def test_slips_are_refused_before_anything_runs(words, space, message, tmp_path, capsys):
    assert start(tmp_path / "sweep", *words, space=space) == EXIT_REFUSED
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_folder_of_another_sweep_is_refused(finished, capsys):
    before = (finished / "sweep.json").read_text()
    assert start(finished, "--top_k_layers", "1") == EXIT_REFUSED
    assert "another objective.top_k_layers: 2 there, 1 here" in capsys.readouterr().err
    assert start(finished, "--measure", "loss") == EXIT_REFUSED
    assert "another sweep.measure" in capsys.readouterr().err
    assert (finished / "sweep.json").read_text() == before


def test_a_recipe_without_the_section_is_told(tmp_path, capsys):
    assert sweep.main(["demo_vision.yaml", *SMALL, "--output_dir", str(tmp_path / "sweep")]) == EXIT_REFUSED
    assert "sweep: " in capsys.readouterr().err


def test_what_is_to_be_installed_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    assert start(tmp_path / "sweep") == EXIT_REFUSED
    assert "pip install data2vec[sweep]" in capsys.readouterr().err
