"""Makes the modality known. Import it once, before anything opens a configuration of this type."""

from collections.abc import Mapping
from typing import Any

import torch
from series_data import SeriesData, SeriesFeatureExtractor
from series_encoder import SeriesConfig, SeriesForPreTraining, SeriesModel
from torch import Tensor
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from data2vec.pretraining.data.build import MODALITIES
from data2vec.pretraining.evaluation.probe import REAL_TOKENS


def real_steps(encoder: Any, inputs: Mapping[str, Tensor], time: int) -> Tensor:
    """Which tokens stand for a part of the input, bool (batch, time): features are averaged over them."""
    real = encoder.real_tokens(inputs.get("attention_mask"), time)
    return torch.ones(len(inputs["series_values"]), time, dtype=torch.bool) if real is None else real


AutoConfig.register(SeriesConfig.model_type, SeriesConfig)
AutoModel.register(SeriesConfig, SeriesModel)
AutoModelForPreTraining.register(SeriesConfig, SeriesForPreTraining)
AutoFeatureExtractor.register(SeriesConfig, SeriesFeatureExtractor)
MODALITIES["series_values"] = SeriesData  # the data layer finds a modality by the encoder's main input
REAL_TOKENS["series_values"] = real_steps
