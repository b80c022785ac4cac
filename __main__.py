"""`python -m data2vec`: the command `data2vec`, see cli.py."""

import sys

from data2vec.cli import main


if __name__ == "__main__":
    sys.exit(main())
