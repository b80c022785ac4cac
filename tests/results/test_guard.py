"""The claim about the guard: who counts as healthy, when a signal alarms, and that the wrecks are what they say."""

from typing import Any

import experiment
import guard
import numpy as np
import pytest
import tables
import torch
from baselines import LOCAL, regularised_class, restless_class

from data2vec.pretraining.arguments import resolve
from data2vec.tests.pretraining.tiny_runs import recipe


def run(part: str, arm: str, knn: float | None, seed: int = 0, **columns: list[float]) -> dict[str, Any]:
    log = {name: [2.0] * 7 for name in ("loss", *guard.SIGNALS)} | {"step": [1, 10, 20, 30, 40, 50, 60]} | columns
    of = {"part": part, "system": "vision_v1", "arm": arm, "seed": seed, "knn": knn, "untrained": 50.0}
    ends = {"rescues": int(part == "rescued"), "stopped_at": 60 if knn is None else None}
    return of | ends | {"log": log}


FALLEN = [40.0, 39.0, 7.0, 30.0, 7.0, 6.0, 7.0]  # below a fifth of the first: one log, then three in a row
RUNS = [
    run("healthy", "as it is", 60.0, effective_rank=[10.0, 9.0, 7.0, 8.0, 6.5, 9.0, 9.0]),
    run("healthy", "as it is", 60.0, seed=1, effective_rank=[10.0, 9.0, 6.0, 6.2, 6.1, 9.0, 9.0]),
    run("healthy", "half the rate", 47.0, seed=1),  # measurably worse than untrained: neither
    run("wreck", "rate x 10", 40.0, embedding_share=FALLEN),
    run("wreck", "tau 0", 48.5),  # not measurably worse than untrained: healthy
    run("rescued", "rate x 10, lower_rate", 55.0),
    run("rescued", "rate x 10, restart_from_checkpoint", None),  # stopped by its guard in the end
    run("regularised", "rate x 10, VICReg", 41.0),
]
FOUND = {"claim": "", "paper": "", "wall_seconds": 1.0, "runs": RUNS}


def test_who_is_healthy_and_who_is_wrecked():
    healthy, wrecks = guard.split(FOUND)
    assert healthy == [RUNS[0], RUNS[1], RUNS[4]] and wrecks == [RUNS[3]]


def test_a_signal_alarms_at_the_third_log_in_a_row():
    assert guard.alarm(RUNS[3], "embedding_share", 0.2) == 60
    assert guard.alarm(RUNS[3], "effective_rank", 0.2) is None
    assert guard.guard_alarms(RUNS[3]) == {"embedding_share": 60}
    values = RUNS[1]["log"]["effective_rank"]
    naive = [max(values[i - 2 : i + 1]) / values[0] for i in range(3, 7)]
    assert guard.level(RUNS[1], "effective_rank")[3:] == pytest.approx(naive)


def test_limits_come_from_seed_0_and_are_tested_on_the_others():
    limit = guard.limit_of(guard.split(FOUND)[0], "effective_rank")
    assert limit == pytest.approx(0.9 * 0.8)  # the highest of 7, 8 and 6.5
    assert guard.alarm(RUNS[1], "effective_rank", limit) == 40  # a false alarm
    assert "| `effective_rank` | 0.72 | 1 of 1 | - |" in guard.table(FOUND)


def test_what_is_compared_and_shown(tmp_path):
    alarms, lowered, restarted = guard.compared(FOUND)
    assert "in 0 of 3 healthy runs and in 1 of 1 wrecks" in alarms.said and alarms.holds == "yes"
    assert (lowered.holds, lowered.effect) == ("yes", (15.0,))
    assert (restarted.holds, restarted.effect) == ("no", (0.0,)) and "| 1 | stopped at 60 |" in guard.table(FOUND)
    guard.draw(FOUND, tmp_path / "guard.png")
    assert (tmp_path / "guard.png").stat().st_size > 5000
    assert tables.OTHER_TABLES["guard"](FOUND).endswith("|\n")


def test_every_experiment_is_another_one():
    every = list(guard.experiments())
    assert len({(part, system, arm, seed) for part, system, arm, _, seed in every}) == len(every)
    assert sum(part == "healthy" for part, *_ in every) >= 30
    assert all(system in experiment.SYSTEMS for _, system, *_ in every)


@pytest.mark.parametrize("system", ["vision-1", "audio-1", "text-1", "vision-2", "audio-2"])
def test_the_local_encoder_of_each_system_is_found(tmp_path, system):
    asked = resolve(recipe(system, tmp_path, tmp_path / "run"))
    model = restless_class(asked.model_class, 30.0)(asked.config)
    student = [name for name, _ in model.base_model.named_parameters()]
    fast = {name for name in student if model.rate_factor(name) == 30.0}
    assert fast and fast == {name for name in student if not name.startswith(("encoder.", "layernorm.", "positions."))
                             and name != "masked_spec_embed"}  # fmt: skip
    assert all(any(part in name for part in LOCAL) for name in fast)


def test_the_regularisation_is_vicregs(tmp_path):
    asked = resolve(recipe("vision-1", tmp_path, tmp_path / "run"))
    torch.manual_seed(0)
    model = regularised_class(asked.model_class, 10.0, 0.4)(asked.config).eval()
    pixels, masked = torch.randn(3, 1, 8, 8), torch.rand(3, 16) < 0.5
    seen: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    loss = model(pixels, masked).loss.item()
    states = seen[0].detach().numpy()
    covariance = np.cov(states, rowvar=False)
    hinge = np.maximum(0, 1 - np.sqrt(states.var(0, ddof=1) + 1e-4)).mean()
    apart = ((covariance**2).sum() - (np.diag(covariance) ** 2).sum()) / len(covariance)
    model.__class__ = asked.model_class  # the same weights without the terms
    assert loss - model(pixels, masked).loss.item() == pytest.approx(10 * hinge + 0.4 * apart, rel=1e-4)
