"""Our configurations behind `AutoConfig`. Importing this registers them."""

from transformers.models.auto.configuration_auto import AutoConfig

from .configuration_joint import CONFIGS, JointConfig


for configuration in (*CONFIGS.values(), JointConfig):
    AutoConfig.register(configuration.model_type, configuration)
