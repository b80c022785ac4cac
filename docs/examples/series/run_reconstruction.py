"""A method: a second term of the loss, the hidden numbers themselves. Launched as run_series.py is."""

import sys

import series_register  # noqa: F401
from series_encoder import SeriesConfig, SeriesForPreTraining
from transformers import AutoModelForPreTraining

from data2vec.modeling.gather import at_scored
from data2vec.modeling.initialization import DefaultLinear
from data2vec.modeling.loss import LossTerm
from data2vec.modeling.pretraining_step import Step
from data2vec.pretraining.run import main


class ReconstructedSeries(SeriesForPreTraining):
    """Predicts what the teacher says of a hidden patch, and the patch."""

    def __init__(self, config: SeriesConfig):
        super().__init__(config)
        self.reconstruction = DefaultLinear(self.decoder.width, config.patch_steps * config.num_channels)

    def loss_terms(self, regression: LossTerm, step: Step) -> list[LossTerm]:
        patches = self.base_model.embeddings.patches(*step.inputs)  # (batch, time, numbers)
        hidden = at_scored(patches, step.scored, rows=len(step.decoded))  # (scored, numbers)
        predictions = self.reconstruction(step.decoded.flatten(0, 1)[step.scored])
        return [*super().loss_terms(regression, step), LossTerm("reconstruction", predictions, hidden, weight=0.5)]


AutoModelForPreTraining.register(SeriesConfig, ReconstructedSeries, exist_ok=True)  # in place of SeriesForPreTraining


if __name__ == "__main__":
    sys.exit(main())
