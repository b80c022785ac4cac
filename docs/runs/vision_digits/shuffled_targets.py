"""Control: the vision demo with each sample's targets taken from its neighbour in the batch.

    python docs/runs/vision_digits/shuffled_targets.py demo_vision.yaml --output_dir runs/shuffled_targets

What is learned here is learned without any relation between an image and its targets.
"""

import sys

from torch import Tensor

from data2vec.modeling import Data2VecVisionForPreTraining
from data2vec.modeling.loss import LossTerm
from data2vec.pretraining.arguments import parse_arguments
from data2vec.pretraining.run import open_data, pretrain


class ShuffledTargets(Data2VecVisionForPreTraining):
    def regression_term(self, predictions: Tensor, all_targets: Tensor, *where: Tensor) -> LossTerm:
        return super().regression_term(predictions, all_targets.roll(1, dims=0), *where)


if __name__ == "__main__":
    run = parse_arguments()
    run.model_class = ShuffledTargets
    sys.exit(pretrain(run, open_data(run)))
