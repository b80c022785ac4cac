"""Which fields of a recipe a sweep may try: their own values, those that mean nothing, and what is worth trying."""

from collections.abc import Mapping
from typing import Any

from ..arguments import Run, field_names, override, resolve
from ..recipe import locate


K, BETA, TAU = "objective.top_k_layers", "objective.loss_beta", "objective.ema_decay"
BETAS = (0.0, 0.25, 1.0, 4.0)
FASTER = 3  # how many times faster, or slower, a teacher is tried


def own_values(run: Run, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the recipe itself has in the fields of the space.

    Raises:
        ValueError: a field has a value that the space does not contain.
    """
    own = {}
    for name, values in space.items():
        found: Any = run
        for key in locate(name, run.recipe, field_names):
            if key == "model":
                found = run.config
            else:
                found = found.get(key) if isinstance(found, Mapping) else getattr(found, key, None)
        inside = found in values["choices"] if "choices" in values else _between(values["low"], found, values["high"])
        if not inside:
            raise ValueError(
                f"sweep.space.{name} = {dict(values)!r} is invalid: with include_recipe it must contain the recipe's "
                f"own value, {found!r}."
            )
        own[name] = found
    return own


def _between(low: float, value: Any, high: float) -> bool:
    """Whole numbers have whole bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high


def without_meaning(run: Run) -> dict[str, str]:
    """Fields of the objective that change nothing in this run -> why."""
    objective = run.objective
    found: dict[str, str] = {}
    if run.modalities:
        return found
    if objective.target in ("input", "same_view"):
        found[K] = f"objective.target = {objective.target!r} averages no layers"
    elif objective.target_layers is not None:
        found[K] = "objective.target_layers names the blocks"
    if objective.target == "input":
        found[BETA] = "objective.target = 'input' may be predicted as words"
    if objective.ema_scope == "frozen" or not objective.kind.has_teacher or objective.target == "other_model":
        found[TAU] = "no teacher follows the student"
    return found


def worth_trying(run: Run) -> dict[str, dict[str, Any]]:
    """A space around the recipe, which contains it: K, beta, the share that is hidden, and the teacher's decay."""
    objective = run.objective
    blocks = objective.kind.blocks(objective, run.config.num_hidden_layers)
    space: dict[str, dict[str, Any]] = {
        K: {"low": 1, "high": blocks},
        BETA: {"choices": sorted({*BETAS, float(objective.loss_beta)})},
        TAU: {"choices": decays(objective.ema_decay, objective.ema_end_decay)},
    }
    space |= {name: _around(name, share, run) for name, share in hidden_share(objective.masking).items()}
    left_out = without_meaning(run)
    return {name: values for name, values in space.items() if name not in left_out and _several(values)}


def _several(values: Mapping[str, Any]) -> bool:
    return len(values["choices"]) > 1 if "choices" in values else values["low"] < values["high"]


def hidden_share(masking: Any, name: str = "objective.masking") -> dict[str, float]:
    """The field that says how much is hidden, and its value."""
    if hasattr(masking, "of"):
        return hidden_share(masking.of, f"{name}.of")
    key = next((key for key in ("ratio", "prob") if hasattr(masking, key)), None)
    return {} if key is None else {f"{name}.{key}": float(getattr(masking, key))}


def _around(name: str, share: float, run: Run) -> dict[str, float]:
    """From half as much to half of what is left, or as far as the smallest input of the run allows."""
    bounds = {}
    for bound, end in (("low", 0), ("high", 1)):
        values = [round(share + (end - share) * part, 3) for part in (0.5, 0.25, 0.1)]
        bounds[bound] = next((value for value in values if _fits(name, value, run)), share)
    return bounds


def _fits(name: str, value: float, run: Run) -> bool:
    try:
        resolve(override(run.recipe, [f"--{name}", str(value)]))
    except ValueError:
        return False
    return True


def decays(own: float, most: float) -> list[float]:
    """A teacher that moves `FASTER` times as fast, as the recipe's, and a third as fast; none is slower than at the
    end of its schedule."""
    every = {round(1 - (1 - own) * FASTER, 10), own, round(1 - (1 - own) / FASTER, 10)}
    return sorted(decay for decay in every if 0 <= decay <= max(own, most))
