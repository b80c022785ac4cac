"""Our configurations behind `AutoConfig`. Importing this registers them."""

from transformers.models.auto.configuration_auto import AutoConfig

from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig


for configuration in (Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig):
    AutoConfig.register(configuration.model_type, configuration)
