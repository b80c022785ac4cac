"""Our configurations behind `AutoConfig`. Importing this registers them."""

from transformers.models.auto.configuration_auto import AutoConfig

from .configuration_av_data2vec import AvData2VecConfig
from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .configuration_eat import EatConfig
from .configuration_emotion2vec import Emotion2vecConfig
from .configuration_joint import JointConfig
from .configuration_medcoss import MedCossImageConfig, MedCossTextConfig, MedCossVolumeConfig
from .configuration_point2vec import Point2VecConfig
from .configuration_sv_data2vec import SvData2VecConfig
from .configuration_universal import (
    UniversalAudioConfig,
    UniversalPointsConfig,
    UniversalTextConfig,
    UniversalVisionConfig,
)


for configuration in (
    AvData2VecConfig,
    Data2Vec2AudioConfig,
    Data2Vec2TextConfig,
    Data2Vec2VisionConfig,
    EatConfig,
    Emotion2vecConfig,
    JointConfig,
    MedCossImageConfig,
    MedCossTextConfig,
    MedCossVolumeConfig,
    Point2VecConfig,
    SvData2VecConfig,
    UniversalAudioConfig,
    UniversalPointsConfig,
    UniversalTextConfig,
    UniversalVisionConfig,
):
    AutoConfig.register(configuration.model_type, configuration)
