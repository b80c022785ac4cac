"""`data2vec suggest`: a pilot on one's own data, the recipe that it prints, the reasons, and slips."""

import json
from typing import Any

import pytest
import yaml

from data2vec.pretraining import run
from data2vec.pretraining.console.help import EXIT_REFUSED
from data2vec.pretraining.evaluation import label_free
from data2vec.pretraining.sweep import suggest
from data2vec.pretraining.sweep.suggest import Pilot, SuggestArguments, faster, with_comments
from tests.pretraining.tiny_runs import recipe, write_sources


pytest.importorskip("optuna", reason="needs the extra `sweep`")
SPACE = {"objective.top_k_layers", "objective.loss_beta", "objective.masking.prob", "objective.ema_decay"}


def written(folder, system: str = "vision-2", **objective: Any) -> dict[str, Any]:
    """A recipe of 18 updates, and its file."""
    made = recipe(system, folder, folder / "run", max_steps=18, save_steps=18)
    made["objective"] |= {
        "ema_decay": 0.99,
        "ema_end_decay": 0.999,
        "ema_anneal_steps": 12,
        "loss_beta": 0.0,
    } | objective
    (folder / "mine.yaml").write_text(yaml.safe_dump(made))
    return made


def pilot(made: dict[str, Any], **asked: Any) -> Pilot:
    return Pilot(made, SuggestArguments.from_dict(asked))


def trial(number: int, values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"run": f"run-{number}", "state": "pruned", "message": None, "values": values, "value": None} | more


def test_what_is_printed_is_the_recipe_of_the_best_trial_and_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(label_free, "EXAMPLES", 60)
    monkeypatch.setattr(label_free, "CLASSES", 10)
    before = written(tmp_path)
    words = [str(tmp_path / "mine.yaml"), "--pilot_steps", "9", "--trials", "4"]
    assert suggest.main(words) == 0
    text = capsys.readouterr().out
    folder = tmp_path / "run_pilot"
    assert (folder / "suggested.yaml").read_text() == text and not (tmp_path / "run").exists()
    found = json.loads((folder / "sweep.json").read_text())
    own, best = found["trials"][0], next(t for t in found["trials"] if t["run"] == found["best"])
    assert own["values"].keys() == SPACE and own["values"]["objective.ema_decay"] == 0.98  # twice as fast, in half
    printed = yaml.safe_load(text)
    assert printed["objective"]["top_k_layers"] == best["values"]["objective.top_k_layers"]
    assert printed["objective"]["loss_beta"] == best["values"]["objective.loss_beta"]
    assert printed["objective"]["masking"]["prob"] == pytest.approx(best["values"]["objective.masking.prob"], rel=1e-5)
    moves = (1 - best["values"]["objective.ema_decay"]) / 2
    assert 1 - printed["objective"]["ema_decay"] == pytest.approx(moves)
    for section in ("model", "data", "training"):
        assert printed[section] == before[section]
    (tmp_path / "suggested.yaml").write_text(text)
    assert run.main([str(tmp_path / "suggested.yaml")]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_change_says_what_was_and_what_the_trials_say(tmp_path):
    made = pilot(written(tmp_path), pilot_steps=9)
    own = {"objective.top_k_layers": 2, "objective.loss_beta": 0.0, "objective.masking.prob": 0.6}
    own |= {"objective.ema_decay": 0.98}
    fast, betas = faster(0.98, 3), [0.0, 1.0, 4.0, 0.25, 1.0, 0.0]
    trials = [
        trial(i, own | {"objective.loss_beta": beta, "objective.ema_decay": decay}, reported={"1": value})
        for i, (beta, decay, value) in enumerate(
            zip(betas, [0.98, fast, 0.98, 0.98, fast, fast], [2.0, 4.0, 2.2, 2.1, 3.0, 3.1], strict=True)
        )
    ]
    trials[0] |= {"state": "finished", "value": 5.0}
    trials[1] |= {"state": "finished", "value": 6.0}
    text = made.suggestion({"best": "run-1", "trials": trials})
    lines = text.splitlines()
    assert lines[0].startswith("# Suggested by a pilot of 9 updates (the run has 18): 6 trials, 2 to the end")
    assert "# Best was run-1, 6; the recipe's own values: 5." in lines
    assert "# Tried and kept: objective.top_k_layers, objective.masking.prob." in lines
    where = lines.index("  ema_decay: 0.97")
    assert lines[where - 1] == (
        "  # was 0.99; less of it went with a better feature_rank_student of 6 trials at update 1 (rank correlation "
        "-0.88)"
    )
    where = lines.index("  loss_beta: 1.0")
    assert "was 0.0; the best trial has it, though feature_rank_student hardly depends on it" in lines[where - 1]
    assert yaml.safe_load(text)["objective"]["ema_end_decay"] == 0.999


def test_nothing_is_changed_where_the_recipe_is_best(tmp_path):
    before = written(tmp_path)
    made = pilot(before, pilot_steps=9)
    own = suggest.own_values(made.base, made.space)
    trials = [trial(0, own, state="finished", value=3.0, reported={}), trial(1, own, reported={})]
    text = made.suggestion({"best": "run-0", "trials": trials})
    assert yaml.safe_load(text) == before
    assert "# Nothing is changed: the recipe's own values were best, 3." in text


def test_a_pilot_has_shorter_schedules_and_a_teacher_as_much_faster(tmp_path):
    before = written(tmp_path)
    before["training"]["warmup_steps"] = 4
    made = pilot(before, pilot_steps=9).recipe
    objective, training = made["objective"], made["training"]
    assert (objective["ema_decay"], objective["ema_end_decay"], objective["ema_anneal_steps"]) == (0.98, 0.998, 6)
    assert (training["max_steps"], training["warmup_steps"]) == (9, 2)
    assert made["sweep"]["space"].keys() == SPACE
    assert made["sweep"]["space"]["objective.ema_decay"]["choices"] == pytest.approx([0.94, 0.98, 1 - 0.02 / 3])
    assert pilot(before).recipe["training"]["max_steps"] == 9, "a twentieth would be too few to halve"
    before["training"]["max_steps"] = 1000
    assert pilot(before).recipe["training"]["max_steps"] == 300, "0.99 moves by a tenth, three times faster"


@pytest.mark.parametrize(
    ("system", "objective", "missing"),
    [
        ("vision-2", {"ema_scope": "frozen"}, {"objective.ema_decay"}),
        ("vision-2", {"target_layers": [0]}, {"objective.top_k_layers"}),
        ("vision-2", {"target": "input", "cls_loss_weight": 0}, SPACE - {"objective.masking.prob"}),
        ("points-1", {}, set()),
    ],
)
def test_what_means_nothing_is_not_tried(system, objective, missing, tmp_path):
    if system == "points-1":
        write_sources(tmp_path)
    made = pilot(written(tmp_path, system, **objective), pilot_steps=9)
    assert made.space.keys() == SPACE - missing
    own = suggest.own_values(made.base, made.space)
    text = made.suggestion({"best": "run-0", "trials": [trial(0, own, state="finished", value=1.0, reported={})]})
    assert {line.split()[3].rstrip(",") for line in text.splitlines() if line.startswith("# Not tried")} == missing


def test_comments_stand_above_their_fields():
    text = yaml.safe_dump({"a": {"b": 1, "c": {"b": 2}}, "b": [3, 4]}, sort_keys=False)
    found = with_comments(text, {("a", "c", "b"): "two", ("b",): "list"})
    assert found == "a:\n  b: 1\n  c:\n    # two\n    b: 2\n# list\nb:\n- 3\n- 4\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measure", "probe/knn_student"], "sweep.measure = 'probe/knn_student' is invalid: give labelled data"),
        (["--measure", "accuracy"], "sweep.measure = 'accuracy' is invalid: use one of probe/knn_student"),
        (["--space", "{objective.vews: {low: 1, high: 2}}"], "did you mean 'views'?"),
        (
            ["--ema_scope", "frozen", "--space", "{ema_decay: {choices: [0.9, 0.98]}}"],
            "no teacher follows the student",
        ),
        (["--space", "{learning_rate: {low: 1, high: 2}}"], "must contain the recipe's own value, 0.001"),
        (["--pilot_steps", "3"], "sweep.pilot_steps = 3 is invalid: use 9 or more, for objective.ema_decay = 0.99"),
        (["--pilot_steps", "19"], "sweep.pilot_steps = 19 is invalid: use training.max_steps = 18 or less"),
        (["--include_recipe", "false"], "sweep.include_recipe = False is invalid"),
        (["--max_steps", "-1", "--num_train_epochs", "1"], "give training.max_steps"),
        (["--pruner", "median"], "sweep.pruner = 'median' is invalid: feature_rank_student is measured"),
        (["--sources", "[{path: nowhere}]"], "nowhere"),
    ],
)
def test_slips_are_refused_before_anything_runs(words, message, tmp_path, capsys):
    written(tmp_path)
    assert suggest.main([str(tmp_path / "mine.yaml"), *words]) == EXIT_REFUSED
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "run_pilot").exists()


def test_joint_recipes_are_refused(tmp_path, capsys):
    assert suggest.main(["demo_joint.yaml", "--output_dir", str(tmp_path / "run")]) == EXIT_REFUSED
    assert "suggest compares runs of one modality" in capsys.readouterr().err
