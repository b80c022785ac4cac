"""The logs of a joint run: what is measured of a modality has its name in front, `audio/loss`."""

from collections.abc import Mapping
from typing import Any


# of the whole run, and of each modality alike
COMMON = ("step", "epoch", "learning_rate", "grad_norm", "ema_decay", "training_seconds")


def prefix_of(modality: str) -> str:
    """What stands in front of a modality's numbers; nothing where there is one modality, which has no name."""
    return f"{modality}/" if modality else ""


def logs_of(row: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """What a row of the log says of a modality, by the names of a run of it alone."""
    if not modality:
        return dict(row)
    own, prefix = {name: row[name] for name in COMMON if name in row}, prefix_of(modality)
    return own | {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
