"""Fine-tune for speech recognition: `accelerate launch finetune/run_ctc.py RECIPE.yaml [--field value ...]`."""

import sys

from data2vec.finetune.command_line import check_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_ctc.py"))

from collections.abc import Sequence

from data2vec.finetune.ctc.task import SpeechRecognition
from data2vec.finetune.runner import run


TASK = SpeechRecognition


def main(argv: Sequence[str] | None = None) -> int:
    return run(TASK, argv)


if __name__ == "__main__":
    sys.exit(main())
