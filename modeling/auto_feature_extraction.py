"""Our feature extractor behind `AutoFeatureExtractor`. Importing this registers it."""

from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

from .configuration_eat import EatConfig
from .feature_extraction_eat import EatFeatureExtractor


AutoFeatureExtractor.register(EatConfig, EatFeatureExtractor)
