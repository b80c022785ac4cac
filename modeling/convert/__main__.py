"""`python -m data2vec.modeling.convert`: see command.py."""

import sys

from data2vec.modeling.convert.command_line import answer_early


if __name__ == "__main__":
    answer_early()

from data2vec.modeling.convert.command import main


if __name__ == "__main__":
    sys.exit(main())
