"""`python -m data2vec.model_cards.space`: see command.py."""

import sys

from data2vec.model_cards.command_line import check_space
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(check_space)

from data2vec.model_cards.space.command import main


if __name__ == "__main__":
    sys.exit(main())
