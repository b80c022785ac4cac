"""AV-data2vec: speech that is heard and seen on the lips (arXiv 2302.06419): encoder, pretraining and CTC."""

from typing import Unpack

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.utils.generic import can_return_tuple

from .configuration_av_data2vec import AvData2VecConfig
from .embed_audio import ConvolutionalPositions
from .embed_video import VideoEmbeddings
from .heads import ctc_loss
from .modeling_data2vec2 import Data2Vec2PreTrainedModel, EncoderOptions
from .modeling_pretraining import Data2VecForPreTrainingOutput
from .streams import ConcatFusion, StreamEmbeddings, StreamsForPreTraining, StreamsModel, StreamsOptions


class AudioFrameEmbeddings(nn.Module):
    """Stacked log-mel frames, as many as the video has -> a token each."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.projection = nn.Linear(config.num_mel_bins * config.num_stacked_frames, config.hidden_size)

    def forward(self, input_features: Tensor) -> Tensor:
        """`(batch, frames, bins)` -> `(batch, frames, dim)`.

        Raises:
            ValueError: other axes or bins.
        """
        bins = self.projection.in_features
        if input_features.dim() != 3 or input_features.shape[2] != bins:
            raise ValueError(f"input_features has shape {tuple(input_features.shape)}: pass (batch, frames, {bins}).")
        return self.projection(input_features.to(self.projection.weight.dtype))


class AvData2VecEmbeddings(StreamEmbeddings):
    audio: AudioFrameEmbeddings
    embedding_classes = (AudioFrameEmbeddings, VideoEmbeddings)
    fusion_class = ConcatFusion


class AvData2VecPreTrainedModel(Data2Vec2PreTrainedModel):
    config: AvData2VecConfig
    base_model_prefix = "av_data2vec"
    main_input_name = "input_features"
    input_modalities = ["audio", "video"]


class AvData2VecModel(AvData2VecPreTrainedModel, StreamsModel):
    """The encoder of sound, of lips, or of both, at 25 frames per second."""

    embeddings_class = AvData2VecEmbeddings
    embeddings: AvData2VecEmbeddings
    positions_class = ConvolutionalPositions

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.audio.projection

    def _get_feature_vector_attention_mask(self, time: int, attention_mask: Tensor) -> Tensor:
        """What `SpeechEncoderDecoderModel` asks: which of the outputs are real. A frame is one of them."""
        return attention_mask

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stream_mask: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> BaseModelOutput:
        """
        Args:
            input_features: `(batch, frames, bins)` float, stacked log-mel frames, zeros as padding.
            pixel_values: `(batch, frames, channels, height, width)` float, mouth crops, normalised, zeros as padding.
                One of the two can be left out.
            attention_mask: `(batch, frames)`, 1 = real; `None` if nothing is padded.
            stream_mask: `(batch, 2)`, whether a sample has sound and video, 1 = yes; `None`: it has what is given.
            options: see [`EncoderOptions`].
        """
        return self._read((input_features, pixel_values), attention_mask, stream_mask, options)


class AvData2VecForPreTraining(AvData2VecPreTrainedModel, StreamsForPreTraining):
    """Student and teacher each draw what they read of a sample: in the published recipe the teacher hears it alone."""

    base_class = AvData2VecModel
    default_objective = AvData2VecConfig.default_objective
    head_linear = nn.Linear

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        masked: Tensor | None = None,
        **options: Unpack[StreamsOptions],
    ) -> Data2VecForPreTrainingOutput:
        """
        Args:
            input_features, pixel_values, attention_mask: as in [`AvData2VecModel`].
            masked: bool `(batch, frames)`, True = replaced by a mask token behind the fusion; sampled from the
                objective if `None`.
            options: see [`StreamsOptions`].
        """
        return self._pretrain_streams((input_features, pixel_values), attention_mask, masked, **options)


class AvData2VecForCTC(AvData2VecPreTrainedModel):
    """Speech recognition by ear, by eye or both, with connectionist temporal classification."""

    _auto_class = "AutoModelForCTC"

    def __init__(self, config: AvData2VecConfig):
        super().__init__(config)
        self.av_data2vec = AvData2VecModel(config)
        self.dropout = nn.Dropout(config.final_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stream_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Unpack[EncoderOptions],
    ) -> CausalLMOutput:
        """`labels` as in [`Data2Vec2AudioForCTC`]; the rest as in [`AvData2VecModel`]."""
        outputs = self.av_data2vec(
            input_features, pixel_values, attention_mask, stream_mask, **options, return_dict=True
        )
        logits = self.lm_head(self.dropout(outputs.last_hidden_state))  # (batch, frames, vocabulary)
        real = None if attention_mask is None else attention_mask.bool()
        loss = ctc_loss(logits, labels, real, self.config)
        return CausalLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)
