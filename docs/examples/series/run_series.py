"""Pretraining with the modality: `accelerate launch docs/examples/series/run_series.py RECIPE.yaml`."""

import sys

import series_register  # noqa: F401

from data2vec.pretraining.run import main


if __name__ == "__main__":
    sys.exit(main())
