"""Was the run healthy? A verdict in words, from what was logged, with the limits of the run's own guard."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...pretraining.evaluation.panels import series
from ...pretraining.evaluation.report_text import HEALTH
from ...pretraining.monitoring.callbacks import LOST, REMEDIES, SHARES, CollapseGuard
from ..folder import Folder, Log


State = Literal["healthy", "watch", "collapsed", "diverged", "unknown"]
TITLES: dict[State, str] = {
    "healthy": "Healthy",
    "watch": "Look closer",
    "collapsed": "Collapsed",
    "diverged": "Diverged",
    "unknown": "Not known",
}
STOPPED: dict[str, State] = {"collapsed": "collapsed", "diverged": "diverged"}  # states of health.json
# How far a quantity may move over a run before a reader should look at it. Rules of thumb, not limits of the method.
PREDICTIONS_OF_TARGETS = 0.1
HOW_IT_STANDS = {
    "running": "The run says that it is still running (or it was killed).",
    "preempted": "A signal ended the run early; the same command continues it.",
    "failed": "The run ended with an error.",
}


@dataclass(frozen=True)
class Verdict:
    """`state` in one word, `title` to show, `sentences` why, `remedies` where something is wrong."""

    state: State
    title: str
    sentences: list[str]
    remedies: list[str]


def judge(folder: Folder) -> Verdict:
    """The verdict on a run folder."""
    if not folder.pretrains:
        main = (folder.results or {}).get("main")
        score = [f"{main['metric']} on {main['split']}: {main['value']:.4g}."] if main else ["It has no score yet."]
        note = "Collapse, which the verdict on a run of pretraining is about, is no danger here."
        return Verdict("unknown", "Fine-tuned", [*score, note], [])
    return verdict(folder.log, folder.health)


def verdict(log: Log, health: Mapping[str, Any] | None = None) -> Verdict:
    """Judge a run.

    Args:
        log: `log_history` of trainer_state.json.
        health: what health.json holds, where there is one; a run that the guard stopped is one that collapsed.
    """
    logged = {name: found for name in HEALTH if (found := list(zip(*series(log, name), strict=True)))}
    stopped = STOPPED.get((health or {}).get("state", ""))
    if not logged and stopped is None:
        return Verdict("unknown", TITLES["unknown"], ["Nothing that tells a healthy run was logged."], [])
    last = {name: values[-1][1] for name, values in logged.items()}
    below = CollapseGuard().findings(last)
    doubts = _doubts(logged)
    # Predictions alone near their mean are how every run begins.
    lost = [finding for finding in below if not finding.startswith("prediction_std")]
    state: State = stopped or ("collapsed" if lost else "watch" if below or doubts else "healthy")
    sentences = [_found(state, below, logged), *doubts, *_movements(logged)]
    if health is not None:
        sentences += _as_it_stands(health)
    remedies = (
        [line.split(". ", 1)[1].rstrip(";.") for line in REMEDIES.splitlines()[1:]] if state != "healthy" else []
    )
    return Verdict(state, TITLES[state], [sentence for sentence in sentences if sentence], remedies)


def _found(state: State, below: list[str], logged: Mapping[str, Any]) -> str:
    if state == "diverged":
        return "The loss or its gradient was not finite too often, and the run was stopped."
    if below:
        what = "the representation has lost its spread" if state == "collapsed" else "a limit of the guard"
        return f"At the last log {' and '.join(below)}: {what}."
    if state == "collapsed":
        return "The guard stopped the run because its spreads had fallen below their limits."
    judged = [HEALTH[name] for name in ("target_std", "prediction_std", "position_std") if name in logged]
    if not judged:
        return "No spread was logged, so that a collapse could not be seen."
    return f"At the last log nothing is below its limit ({', '.join(judged)})."


def _doubts(logged: Mapping[str, list[tuple[int, float]]]) -> list[str]:
    """What is above the guard's limits and still deserves a look."""
    doubts = []
    for name, share in SHARES.items():
        values = [value for _, value in logged.get(name, [])]
        if values and values[-1] < share * values[0]:
            doubts.append(f"The {HEALTH[name]} fell from {values[0]:.3g} to {values[-1]:.3g}. {LOST[name]}.")
    if "prediction_std" in logged and "target_std" in logged:
        predictions, targets = logged["prediction_std"][-1][1], logged["target_std"][-1][1]
        if predictions < PREDICTIONS_OF_TARGETS * targets:
            doubts.append(
                f"Predictions spread over {predictions:.3g}, targets over {targets:.3g}: the student still predicts "
                "nearly the mean."
            )
    loss = logged.get("loss", [])
    if len(loss) > 1 and loss[-1][1] >= loss[0][1]:
        doubts.append(f"The loss did not fall: {loss[0][1]:.3g} at first, {loss[-1][1]:.3g} at last.")
    return doubts


def _movements(logged: Mapping[str, list[tuple[int, float]]]) -> list[str]:
    """First and last logged value of everything, in one sentence."""
    moved = [
        f"{HEALTH[name]} {values[0][1]:.3g} → {values[-1][1]:.3g}"
        for name, values in logged.items()
        if len(values) > 1
    ]
    if not moved:
        return []
    first = min(values[0][0] for values in logged.values())
    last = max(values[-1][0] for values in logged.values())
    return [f"From step {first} to {last}: {', '.join(moved)}."]


def _as_it_stands(health: Mapping[str, Any]) -> list[str]:
    found = [HOW_IT_STANDS[health["state"]]] if health.get("state") in HOW_IT_STANDS else []
    message = str(health.get("message") or "").split("\n")[0]
    return [*found, message] if message else found
