"""emotion2vec (arXiv 2312.15185): data2vec 2.0 in speech with utterance tokens, trained on from its weights.

The published features are those of one clip at a time, which padded batches equal here (`original_padding` off):

    frames = model(input_values, attention_mask).last_hidden_state[:, model.config.num_extra_tokens :]
    utterance = frames[i, : model._get_feat_extract_output_lengths(samples)].mean(0)

The utterance tokens, in front, serve training only: the original drops them.
"""

from .configuration_emotion2vec import Emotion2vecConfig
from .heads import Data2Vec2AudioForSequenceClassification
from .modeling_data2vec2 import Data2Vec2AudioModel
from .modeling_data2vec2_pretraining import Data2Vec2AudioForPreTraining


class Emotion2vecModel(Data2Vec2AudioModel):
    """The encoder; `last_hidden_state` holds the utterance tokens, then the frames."""

    config: Emotion2vecConfig


class Emotion2vecForPreTraining(Data2Vec2AudioForPreTraining):
    """Student, teacher and decoder: masked frames, and the mean of the utterance tokens for the clip (section 3).

    `from_pretrained` also opens a folder of data2vec 2.0 in speech, an encoder's or one with teacher and decoder: the
    utterance tokens, which it lacks, start at random, the first at zero, and the teacher's as the student's.
    """

    config: Emotion2vecConfig
    base_class = Emotion2vecModel
    default_objective = Emotion2vecConfig.default_objective


class Emotion2vecForSequenceClassification(Data2Vec2AudioForSequenceClassification):
    """An emotion for a clip: mean over real frames, linear layer; probabilities are the softmax of the logits."""

    config: Emotion2vecConfig
    base_class = Emotion2vecModel
