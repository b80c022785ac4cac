"""The one progress bar: shown where a person looks on and the work takes more than a moment."""

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


PATIENCE = 2.0  # seconds before a bar appears


def progress(items: Iterable[Any] | None = None, *, title: str, unit: str, total: int | None = None) -> Any:
    """A `tqdm` on standard error over `items`, or of `total` units to be given to its `update`.

    It appears after `PATIENCE` seconds, and not at all where standard error is no terminal: a log file holds no bars.
    A unit of "B" is bytes, told in kB, MB and so on.
    """
    return tqdm(
        items, desc=title, unit=unit, total=total, delay=PATIENCE, disable=None, leave=False, unit_scale=unit == "B"
    )
