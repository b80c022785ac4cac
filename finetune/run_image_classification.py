"""Fine-tune for image classification: `accelerate launch finetune/run_image_classification.py RECIPE.yaml`.

`--field value` overrides a field of the recipe. See docs/tasks/image_classification.md.
runner.py says what the run folder holds.
"""

import sys

from data2vec.finetune.command_line import check_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_image_classification.py"))

from collections.abc import Sequence

from data2vec.finetune.image.task import ImageClassification
from data2vec.finetune.runner import run


TASK = ImageClassification


def main(argv: Sequence[str] | None = None) -> int:
    return run(TASK, argv)


if __name__ == "__main__":
    sys.exit(main())
