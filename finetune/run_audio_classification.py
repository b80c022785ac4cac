"""Audio classification: `accelerate launch finetune/run_audio_classification.py RECIPE.yaml [--field value ...]`.

... emodb_small.yaml                  one training and one test set
... esc10_small.yaml                  cross-validation: every fold is the test set once, and the mean of all
... esc10_small.yaml --fold 3         the third fold alone
"""

import sys

from data2vec.finetune.command_line import check_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_audio_classification.py"))

from collections.abc import Sequence

from data2vec.finetune.audio.folds import every_fold
from data2vec.finetune.audio.task import AudioClassification
from data2vec.finetune.runner import run


TASK, PERFORM = AudioClassification, every_fold


def main(argv: Sequence[str] | None = None) -> int:
    return run(TASK, argv, PERFORM)


if __name__ == "__main__":
    sys.exit(main())
