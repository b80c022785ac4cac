"""Fine-tune to find the parts of objects: `accelerate launch finetune/run_part_segmentation.py RECIPE.yaml`.

`--field value` overrides a field of the recipe. See docs/tasks/point_clouds.md.
runner.py says what the run folder holds.
"""

import sys

from data2vec.finetune.command_line import check_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_part_segmentation.py"))

from collections.abc import Sequence

from data2vec.finetune.points.segmentation import PartSegmentation
from data2vec.finetune.runner import run


TASK = PartSegmentation


def main(argv: Sequence[str] | None = None) -> int:
    return run(TASK, argv)


if __name__ == "__main__":
    sys.exit(main())
