"""`python -m data2vec.pretraining.sweep`: see command.py."""

import sys

from data2vec.pretraining.command_line import answer_early, check_sweep


if __name__ == "__main__":
    answer_early(check_sweep)

from data2vec.pretraining.sweep.command import main


if __name__ == "__main__":
    sys.exit(main())
