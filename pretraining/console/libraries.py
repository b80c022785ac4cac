"""What libraries print of their own, kept to what a person needs."""

import logging
import sys
from collections.abc import Collection, Mapping
from typing import Any

import datasets
from transformers.utils import logging as transformers_logging


NAMED = 4  # modules in a line


def quiet_libraries() -> None:
    """No bars while weights are read and written, and no table of every weight that a checkpoint lacks.

    [`new_weights`] says in one line what the table would. Bars of `datasets` are for terminals, as ours are.
    """
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    logging.getLogger("transformers.modeling_utils").addFilter(_no_load_report)


def save_to_disk(data: datasets.Dataset | datasets.DatasetDict, folder: str) -> None:
    """As the method of `datasets`, without a bar for each split."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        data.save_to_disk(folder)
    finally:
        if shown:
            datasets.enable_progress_bars()


def new_weights(loading: Mapping[str, Collection[Any]], checkpoint: str) -> str | None:
    """What `from_pretrained(..., output_loading_info=True)` missed in a checkpoint, in a line; None if nothing."""
    missing = sorted({str(key).rpartition(".")[0] or str(key) for key in loading["missing_keys"]})
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"new, not in {checkpoint}: {', '.join(missing[:NAMED])}{more}" if missing else None


def _no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
