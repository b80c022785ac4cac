"""Our feature extractors behind `AutoFeatureExtractor`. Importing this registers them."""

from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

from .configuration_av_data2vec import AvData2VecConfig
from .configuration_eat import EatConfig
from .configuration_point2vec import Point2VecConfig
from .configuration_sv_data2vec import SvData2VecConfig
from .feature_extraction_av_data2vec import AvData2VecFeatureExtractor
from .feature_extraction_eat import EatFeatureExtractor
from .feature_extraction_point2vec import Point2VecFeatureExtractor
from .feature_extraction_sv_data2vec import SvData2VecFeatureExtractor


AutoFeatureExtractor.register(AvData2VecConfig, AvData2VecFeatureExtractor)
AutoFeatureExtractor.register(EatConfig, EatFeatureExtractor)
AutoFeatureExtractor.register(Point2VecConfig, Point2VecFeatureExtractor)
AutoFeatureExtractor.register(SvData2VecConfig, SvData2VecFeatureExtractor)
