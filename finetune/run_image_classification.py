"""Fine-tune for image classification: `accelerate launch finetune/run_image_classification.py RECIPE.yaml`.

`--field value` overrides a field of the recipe. See docs/fine_tuning.md, and runner.py for what the run folder holds.
"""

import sys
from collections.abc import Sequence

from data2vec.finetune.image.task import ImageClassification
from data2vec.finetune.runner import run


def main(argv: Sequence[str] | None = None) -> int:
    return run(ImageClassification, argv)


if __name__ == "__main__":
    sys.exit(main())
