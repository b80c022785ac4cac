"""Card, report page or export of a run, as `data2vec` makes them: `publish_series.py card RUN --license mit`."""

import sys

import series_cards  # noqa: F401
import series_register  # noqa: F401

from data2vec.cli import main


if __name__ == "__main__":
    sys.exit(main())
