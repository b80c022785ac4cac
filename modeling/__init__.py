"""Models, their configurations and the objective. Importing this registers the classes with `transformers`' Auto classes."""

from transformers import (
    AutoModelForPreTraining,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
)

from .configuration_objective import ObjectiveConfig
from .modeling_data2vec_audio import Data2VecAudioForPreTraining
from .modeling_data2vec_text import Data2VecTextForPreTraining
from .modeling_data2vec_vision import Data2VecVisionForPreTraining
from .modeling_pretraining import Data2VecForPreTrainingOutput


__all__ = [
    "Data2VecAudioConfig",
    "Data2VecAudioForPreTraining",
    "Data2VecAudioModel",
    "Data2VecForPreTrainingOutput",
    "Data2VecTextConfig",
    "Data2VecTextForPreTraining",
    "Data2VecTextModel",
    "Data2VecVisionConfig",
    "Data2VecVisionForPreTraining",
    "Data2VecVisionModel",
    "ObjectiveConfig",
]

# exist_ok: `transformers` skips, without a word, a second class for a configuration of its own
AutoModelForPreTraining.register(Data2VecAudioConfig, Data2VecAudioForPreTraining, exist_ok=True)
AutoModelForPreTraining.register(Data2VecTextConfig, Data2VecTextForPreTraining, exist_ok=True)
AutoModelForPreTraining.register(Data2VecVisionConfig, Data2VecVisionForPreTraining, exist_ok=True)
