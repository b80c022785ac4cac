"""Fine-tune to classify point clouds: `accelerate launch finetune/run_point_cloud_classification.py RECIPE.yaml`.

`--field value` overrides a field of the recipe. See docs/tasks/point_clouds.md.
runner.py says what the run folder holds.
"""

import sys

from data2vec.finetune.command_line import check_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_point_cloud_classification.py"))

from collections.abc import Sequence

from data2vec.finetune.points.classification import PointCloudClassification
from data2vec.finetune.points.episodes import perform
from data2vec.finetune.runner import run


TASK, PERFORM = PointCloudClassification, perform


def main(argv: Sequence[str] | None = None) -> int:
    return run(TASK, argv, PERFORM)


if __name__ == "__main__":
    sys.exit(main())
