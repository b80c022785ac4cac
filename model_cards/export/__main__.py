"""`python -m data2vec.model_cards.export`: see command.py."""

import sys

from data2vec.model_cards.export.command import main


if __name__ == "__main__":
    sys.exit(main())
