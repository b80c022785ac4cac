"""Card, report page or export of a run: `python docs/examples/series/publish_series.py render RUN --license mit`."""

import runpy
import sys

import series_cards  # noqa: F401
import series_register  # noqa: F401


if __name__ == "__main__":
    command = sys.argv.pop(1)  # render, report or export
    runpy.run_module(f"data2vec.model_cards.{command}", run_name="__main__")
