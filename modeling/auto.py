"""Every public class, and which Auto class of `transformers` opens it. Importing this registers them."""

from typing import Any

from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForVideoClassification,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    Data2VecTextConfig,
    Data2VecTextModel,
    Data2VecVisionConfig,
    Data2VecVisionModel,
    PreTrainedModel,
)

from .configuration_av_data2vec import AvData2VecConfig
from .configuration_data2vec2 import Data2Vec2AudioConfig, Data2Vec2TextConfig, Data2Vec2VisionConfig
from .configuration_eat import EatConfig
from .configuration_emotion2vec import Emotion2vecConfig
from .configuration_joint import JointConfig
from .configuration_medcoss import MedCossImageConfig, MedCossTextConfig, MedCossVolumeConfig
from .configuration_objective import ObjectiveConfig
from .configuration_point2vec import Point2VecConfig
from .configuration_sv_data2vec import SvData2VecConfig
from .configuration_universal import (
    UniversalAudioConfig,
    UniversalPointsConfig,
    UniversalTextConfig,
    UniversalVisionConfig,
)
from .feature_extraction_av_data2vec import AvData2VecFeatureExtractor
from .feature_extraction_eat import EatFeatureExtractor
from .feature_extraction_medcoss import MedCossVolumeFeatureExtractor
from .feature_extraction_point2vec import Point2VecFeatureExtractor
from .feature_extraction_sv_data2vec import SvData2VecFeatureExtractor
from .heads import (
    Data2Vec2AudioForAudioFrameClassification,
    Data2Vec2AudioForCTC,
    Data2Vec2AudioForSequenceClassification,
    Data2Vec2TextForQuestionAnswering,
    Data2Vec2TextForSequenceClassification,
    Data2Vec2TextForTokenClassification,
    Data2Vec2VisionForImageClassification,
)
from .heads_point2vec import Point2VecForPartSegmentation, Point2VecForPointCloudClassification
from .modeling_av_data2vec import AvData2VecForCTC, AvData2VecForPreTraining, AvData2VecModel
from .modeling_data2vec2 import Data2Vec2AudioModel, Data2Vec2TextModel, Data2Vec2VisionModel
from .modeling_data2vec2_pretraining import (
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionForPreTraining,
)
from .modeling_data2vec_audio import Data2VecAudioForPreTraining, make_padding_independent
from .modeling_data2vec_text import Data2VecTextForPreTraining
from .modeling_data2vec_vision import Data2VecVisionForPreTraining
from .modeling_eat import EatForAudioClassification, EatForPreTraining, EatModel
from .modeling_emotion2vec import (
    Emotion2vecForPreTraining,
    Emotion2vecForSequenceClassification,
    Emotion2vecModel,
)
from .modeling_joint import JointForPreTraining, JointModel
from .modeling_medcoss import (
    MedCossImageForImageClassification,
    MedCossImageForPreTraining,
    MedCossImageModel,
    MedCossTextForPreTraining,
    MedCossTextForSequenceClassification,
    MedCossTextModel,
    MedCossVolumeForImageClassification,
    MedCossVolumeForPreTraining,
    MedCossVolumeModel,
)
from .modeling_point2vec import Point2VecForPreTraining, Point2VecModel
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .modeling_sv_data2vec import SvData2VecForPreTraining, SvData2VecForVideoClassification, SvData2VecModel
from .modeling_universal import (
    UniversalAudioForPreTraining,
    UniversalAudioModel,
    UniversalPointsForPreTraining,
    UniversalPointsModel,
    UniversalTextForPreTraining,
    UniversalTextModel,
    UniversalVisionForPreTraining,
    UniversalVisionModel,
)


__all__ = [
    "MODELS",
    "AvData2VecConfig",
    "AvData2VecFeatureExtractor",
    "AvData2VecForCTC",
    "AvData2VecForPreTraining",
    "AvData2VecModel",
    "Data2Vec2AudioConfig",
    "Data2Vec2AudioForAudioFrameClassification",
    "Data2Vec2AudioForCTC",
    "Data2Vec2AudioForPreTraining",
    "Data2Vec2AudioForSequenceClassification",
    "Data2Vec2AudioModel",
    "Data2Vec2TextConfig",
    "Data2Vec2TextForPreTraining",
    "Data2Vec2TextForQuestionAnswering",
    "Data2Vec2TextForSequenceClassification",
    "Data2Vec2TextForTokenClassification",
    "Data2Vec2TextModel",
    "Data2Vec2VisionConfig",
    "Data2Vec2VisionForImageClassification",
    "Data2Vec2VisionForPreTraining",
    "Data2Vec2VisionModel",
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
    "EatConfig",
    "EatFeatureExtractor",
    "EatForAudioClassification",
    "EatForPreTraining",
    "EatModel",
    "Emotion2vecConfig",
    "Emotion2vecForPreTraining",
    "Emotion2vecForSequenceClassification",
    "Emotion2vecModel",
    "JointConfig",
    "JointForPreTraining",
    "JointModel",
    "MedCossImageConfig",
    "MedCossImageForImageClassification",
    "MedCossImageForPreTraining",
    "MedCossImageModel",
    "MedCossTextConfig",
    "MedCossTextForPreTraining",
    "MedCossTextForSequenceClassification",
    "MedCossTextModel",
    "MedCossVolumeConfig",
    "MedCossVolumeFeatureExtractor",
    "MedCossVolumeForImageClassification",
    "MedCossVolumeForPreTraining",
    "MedCossVolumeModel",
    "ObjectiveConfig",
    "Point2VecConfig",
    "Point2VecFeatureExtractor",
    "Point2VecForPartSegmentation",
    "Point2VecForPointCloudClassification",
    "Point2VecForPreTraining",
    "Point2VecModel",
    "SvData2VecConfig",
    "SvData2VecFeatureExtractor",
    "SvData2VecForPreTraining",
    "SvData2VecForVideoClassification",
    "SvData2VecModel",
    "UniversalAudioConfig",
    "UniversalAudioForPreTraining",
    "UniversalAudioModel",
    "UniversalPointsConfig",
    "UniversalPointsForPreTraining",
    "UniversalPointsModel",
    "UniversalTextConfig",
    "UniversalTextForPreTraining",
    "UniversalTextModel",
    "UniversalVisionConfig",
    "UniversalVisionForPreTraining",
    "UniversalVisionModel",
    "make_padding_independent",
]

MODELS: dict[Any, tuple[type[PreTrainedModel], ...]] = {
    AutoModel: (
        AvData2VecModel,
        Data2Vec2AudioModel,
        Data2Vec2TextModel,
        Data2Vec2VisionModel,
        EatModel,
        Emotion2vecModel,
        JointModel,
        MedCossImageModel,
        MedCossTextModel,
        MedCossVolumeModel,
        Point2VecModel,
        SvData2VecModel,
        UniversalAudioModel,
        UniversalPointsModel,
        UniversalTextModel,
        UniversalVisionModel,
    ),
    AutoModelForPreTraining: (
        AvData2VecForPreTraining,
        Data2Vec2AudioForPreTraining,
        Data2Vec2TextForPreTraining,
        Data2Vec2VisionForPreTraining,
        EatForPreTraining,
        Emotion2vecForPreTraining,
        JointForPreTraining,
        MedCossImageForPreTraining,
        MedCossTextForPreTraining,
        MedCossVolumeForPreTraining,
        Point2VecForPreTraining,
        SvData2VecForPreTraining,
        UniversalAudioForPreTraining,
        UniversalPointsForPreTraining,
        UniversalTextForPreTraining,
        UniversalVisionForPreTraining,
    ),
    AutoModelForCTC: (AvData2VecForCTC, Data2Vec2AudioForCTC),
    AutoModelForAudioClassification: (
        Data2Vec2AudioForSequenceClassification,
        EatForAudioClassification,
        Emotion2vecForSequenceClassification,
    ),
    AutoModelForAudioFrameClassification: (Data2Vec2AudioForAudioFrameClassification,),
    AutoModelForImageClassification: (
        Data2Vec2VisionForImageClassification,
        MedCossImageForImageClassification,
        MedCossVolumeForImageClassification,
    ),
    AutoModelForSequenceClassification: (
        Data2Vec2TextForSequenceClassification,
        MedCossTextForSequenceClassification,
    ),
    AutoModelForTokenClassification: (Data2Vec2TextForTokenClassification,),
    AutoModelForVideoClassification: (SvData2VecForVideoClassification,),
    AutoModelForQuestionAnswering: (Data2Vec2TextForQuestionAnswering,),
}

for auto_class, model_classes in MODELS.items():
    for model_class in model_classes:
        auto_class.register(model_class.config_class, model_class)
# exist_ok: `transformers` silently skips a second class for a configuration of its own
for stock in (Data2VecAudioForPreTraining, Data2VecTextForPreTraining, Data2VecVisionForPreTraining):
    AutoModelForPreTraining.register(stock.config_class, stock, exist_ok=True)
