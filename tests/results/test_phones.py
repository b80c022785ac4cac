"""docs/results/phones.py: students are of half the size, and those that are compared differ in their teacher alone."""

from pathlib import Path
from typing import Any

import phones
import pytest
from experiment import Experiment
from prepare import Prepared


@pytest.mark.parametrize("name", phones.SETS)
def test_students_of_a_size_differ_in_their_teacher_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Experiment, "prepared", Prepared(str(tmp_path), tmp_path))
    runs = {
        arm: Experiment(phones.SETS[name], fields, 0, tmp_path, tmp_path)
        for arm, fields in phones.fields_of(name).items()
    }
    teacher = runs[phones.TEACHER].arguments().config
    teacher.save_pretrained(runs[phones.TEACHER].folder)
    for size, field in ((phones.DEPTH, "num_hidden_layers"), (phones.WIDTH, "hidden_size")):
        taught, alone = (runs[f"{size}, {how}"].arguments() for how in (phones.TAUGHT, phones.ALONE))
        assert taught.objective.teacher == str(runs[phones.TEACHER].folder) and alone.objective.teacher is None
        assert (taught.objective.target, alone.objective.target) == ("other_model", "layers")
        assert len({run.training.max_steps for run in (taught, alone)} | {phones.UPDATES[name]}) == 1
        configs = [{k: v for k, v in run.config.to_dict().items() if k != "objective"} for run in (taught, alone)]
        assert configs[0] == configs[1] and configs[0][field] == getattr(teacher, field) // 2


def test_rows_of_the_table_are_the_networks_in_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scores = {"linear": 50.0, "knn": 40.0, "few": 30.0}
    kinds = {kind: {"scores": scores, "bytes": 2000} for kind in (phones.FP32, phones.DYNAMIC, phones.STATIC)}
    monkeypatch.setattr(phones, "trained", lambda of: {"files": kinds, "wall_seconds": 60.0})
    found: dict[str, Any] = phones.evaluate(tmp_path, tmp_path)
    assert found["wall_seconds"] == 60 * 2 * 5 * len(phones.SEEDS) and len(found["arms"]) == 15
    assert len(phones.compared(found)) == 12
    assert "| half the width, on its own, int8 static | 2 | 2 |" in phones.table(found)
    phones.draw(found, tmp_path / "phones.png")
    assert (tmp_path / "phones.png").is_file()
