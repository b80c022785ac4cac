"""Makes the modality known. Import it once, before anything opens a configuration of this type."""

from collections.abc import Sequence

import numpy as np
from series_data import SeriesData, SeriesFeatureExtractor
from series_encoder import SeriesConfig, SeriesForPreTraining, SeriesModel
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from data2vec.pretraining.evaluation.probe import Example
from data2vec.pretraining.evaluation.raw_features import RAW_FEATURES, Pair
from data2vec.pretraining.modalities.build import MODEL_TYPES


def spread_of_channels(train: Sequence[Example], test: Sequence[Example]) -> Pair:
    """How much each channel moves, (examples, channels): what an encoder has to beat."""
    train_x, test_x = (np.stack([example["series_values"].numpy().std(0) for example in of]) for of in (train, test))
    return train_x, test_x


AutoConfig.register(SeriesConfig.model_type, SeriesConfig)
AutoModel.register(SeriesConfig, SeriesModel)
AutoModelForPreTraining.register(SeriesConfig, SeriesForPreTraining)
AutoFeatureExtractor.register(SeriesConfig, SeriesFeatureExtractor)
MODEL_TYPES[SeriesConfig.model_type] = SeriesData
RAW_FEATURES[SeriesData] = {"spread of channels": spread_of_channels}  # for the report at the end of a run
