"""Small files of a run folder: names that other layers need, and how text is written. Nothing here imports torch."""

import os
from pathlib import Path


CARD, WHOLE = "README.md", "pretraining"  # the sub-folder holds student, teacher and head of a finished run

RESERVED = (WHOLE, "logs", "runs", "predictions", "language_model")  # folders that no modality of a joint run may be


def write_text(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
