"""An encoder, or one with a head, as a graph of tensors: its inputs, the lengths it takes, and the trace."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForVideoClassification,
    PreTrainedModel,
)

from ...modeling.embed_audio import ConvFrames
from ...modeling.embed_image import as_pair
from ...modeling.heads_point2vec import Point2VecForPointCloudClassification
from ...pretraining.data.hub_names import require_hub_name
from ...pretraining.data.modality import Registry
from ...pretraining.modalities.audio import AudioData
from ...pretraining.modalities.av_speech import AvSpeechData
from ...pretraining.modalities.build import modality_of
from ...pretraining.modalities.image import ImageData
from ...pretraining.modalities.points import PointsData
from ...pretraining.modalities.skeleton_video import SkeletonVideoData
from ...pretraining.modalities.spectrogram import SpectrogramData
from ...pretraining.modalities.text import TextData
from ...pretraining.modalities.volume import VolumeData


SECONDS, TOKENS, POINTS = 10, 128, 1024  # of the example that speed is measured with
Inputs = dict[str, Tensor]


def open_model(name: str, attention: str = "sdpa") -> PreTrainedModel:
    """The encoder or the fine-tuned model of a run folder or a Hub id, in fp32 and in eval mode.

    `attention` is transformers' attn_implementation.

    Raises:
        ValueError: it is none of data2vec's, or of a class that has no export.
    """
    require_hub_name(name)
    config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
    heads = EXPORTS[modality_of(config.model_type)].heads
    saved = (config.architectures or ["Model"])[0]
    opener = next((auto for end, auto in heads.items() if saved.endswith(end)), None)
    if opener is None:
        raise ValueError(
            f"{name!r} holds a {saved}, which has no export ({', '.join(heads)} have): name the folder of a run, not "
            "the pretraining/ in it, or a model with another head."
        )
    model: PreTrainedModel = opener.from_pretrained(
        name, dtype=torch.float32, trust_remote_code=False, attn_implementation=attention
    )
    return model.eval()


@dataclass(frozen=True)
class Shape:
    """Of a batch: its rows and how long they are (samples, tokens; 0 for images, which have one size)."""

    rows: int
    length: int


class Exportable(nn.Module):
    """A model whose forward takes tensors and returns one: logits, or the last hidden state.

    Attributes:
        heads: what the saved class ends in -> the Auto class that opens it.
        names: of the inputs, in their order.
        output_name: logits or last_hidden_state.
        traced: the shape it is traced with; any other is possible afterwards.
        checked: the shapes with which an export is compared with PyTorch, none of them the traced one.
        timed: the shape that speed is measured with.
    """

    heads: ClassVar[dict[str, Any]] = {"Model": AutoModel}
    names: ClassVar[tuple[str, ...]]
    unit: ClassVar[str]
    shortest: int
    longest: int | None
    traced: Shape
    checked: tuple[Shape, ...]
    timed: Shape

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        has_head = hasattr(model, "base_model") and model.base_model is not model
        self.output_name = "logits" if has_head else "last_hidden_state"

    def _only(self, **inputs: Tensor) -> Tensor:
        output: Tensor = self.model(**inputs, return_dict=True)[self.output_name]
        return output

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        """Random inputs; in a batch of several the second row is shorter, where rows have lengths."""
        raise NotImplementedError

    def dims(self) -> tuple[dict[int, Any], ...]:
        """What may change in each input."""
        batch = Dim("batch")
        if self.shortest == 0:
            return tuple({0: batch} for _ in self.names)
        length = Dim("length", min=self.shortest, max=self.longest)
        return tuple({0: batch, 1: length} for _ in self.names)

    def _masked(self, shape: Shape) -> Tensor:
        """An attention mask `(rows, length)`, 1 = real, whose second row is shorter."""
        mask = torch.ones(shape.rows, shape.length, dtype=torch.long)
        mask[1:2, max(self.shortest, shape.length * 2 // 3) :] = 0
        return mask


class ExportableAudio(Exportable):
    """Samples of any length from two frames on."""

    heads: ClassVar[dict[str, Any]] = {
        "Model": AutoModel,
        "ForCTC": AutoModelForCTC,
        "ForSequenceClassification": AutoModelForAudioClassification,
        "ForAudioFrameClassification": AutoModelForAudioFrameClassification,
    }
    names = ("input_values", "attention_mask")
    unit = "samples"

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        config: Any = model.config
        samples = ConvFrames(tuple(config.conv_kernel), tuple(config.conv_stride)).samples_for
        self.shortest, self.longest = samples(2), None
        self.traced = Shape(3, samples(25) + 3)
        self.checked = (Shape(1, self.shortest), Shape(2, samples(11) + 1), Shape(5, samples(43)))
        self.timed = Shape(1, max(16_000 * SECONDS, self.shortest))

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        mask = self._masked(shape)
        values = torch.randn(shape.rows, shape.length, generator=torch.Generator().manual_seed(seed))
        return {"input_values": values * mask, "attention_mask": mask}

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> Tensor:
        return self._only(input_values=input_values, attention_mask=attention_mask)


class ExportableSpectrogram(Exportable):
    """Whole rows of patches, two to as many as there are positions."""

    heads: ClassVar[dict[str, Any]] = {"Model": AutoModel, "ForAudioClassification": AutoModelForAudioClassification}
    names = ("input_values", "attention_mask")
    unit = "frames"

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        config: Any = model.config
        self.frames, _ = as_pair(config.patch_size)
        self.most = config.max_position_embeddings  # rows
        self.shortest, self.longest = 2 * self.frames, self.most * self.frames
        lengths = [min(rows, self.most) * self.frames for rows in (7, 2, 4, 11, 100 * SECONDS // self.frames)]
        self.traced, self.timed = Shape(3, lengths[0]), Shape(1, lengths[-1])
        self.checked = tuple(Shape(rows, length) for rows, length in zip((1, 2, 5), lengths[1:4], strict=True))

    def dims(self) -> tuple[dict[int, Any], ...]:
        batch, rows = Dim("batch"), Dim("rows", min=2, max=self.most)
        return tuple({0: batch, 1: self.frames * rows} for _ in self.names)

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        config: Any = self.model.config
        mask, generator = self._masked(shape), torch.Generator().manual_seed(seed)
        values = torch.randn(shape.rows, shape.length, config.num_mel_bins, generator=generator)
        return {"input_values": values * mask.unsqueeze(-1), "attention_mask": mask}

    def forward(self, input_values: Tensor, attention_mask: Tensor) -> Tensor:
        return self._only(input_values=input_values, attention_mask=attention_mask)


class ExportableText(Exportable):
    """Tokens, two to as many as there are positions."""

    heads: ClassVar[dict[str, Any]] = {
        "Model": AutoModel,
        "ForSequenceClassification": AutoModelForSequenceClassification,
        "ForTokenClassification": AutoModelForTokenClassification,
    }
    names = ("input_ids", "attention_mask")
    unit = "tokens"

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        config: Any = model.config
        self.shortest, self.longest = 2, config.max_position_embeddings - config.pad_token_id - 1
        lengths = [min(length, self.longest) for length in (17, 2, 7, 43, TOKENS)]
        self.traced, self.timed = Shape(3, lengths[0]), Shape(1, lengths[-1])
        self.checked = tuple(Shape(rows, length) for rows, length in zip((1, 2, 5), lengths[1:4], strict=True))

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        config: Any = self.model.config
        mask, generator = self._masked(shape), torch.Generator().manual_seed(seed)
        tokens = torch.randint(config.pad_token_id + 1, config.vocab_size, mask.shape, generator=generator)
        return {"input_ids": tokens.masked_fill(mask == 0, config.pad_token_id), "attention_mask": mask}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self._only(input_ids=input_ids, attention_mask=attention_mask)


class ExportableVision(Exportable):
    """Images of `config.image_size`, as many as there are."""

    heads: ClassVar[dict[str, Any]] = {"Model": AutoModel, "ForImageClassification": AutoModelForImageClassification}
    names = ("pixel_values",)
    unit = "images"
    shortest, longest = 0, None
    traced, timed = Shape(3, 0), Shape(1, 0)
    checked = (Shape(1, 0), Shape(2, 0), Shape(5, 0))

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        config: Any = self.model.config
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        generator = torch.Generator().manual_seed(seed)
        return {"pixel_values": torch.randn(shape.rows, config.num_channels, height, width, generator=generator)}

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self._only(pixel_values=pixel_values)


class ExportableVolumes(ExportableVision):
    """Volumes of `config.image_size`, as many as there are."""

    names = ("voxel_values",)
    unit = "volumes"

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        config: Any = self.model.config
        generator = torch.Generator().manual_seed(seed)
        return {"voxel_values": torch.randn(shape.rows, 1, *config.sizes("image_size"), generator=generator)}

    def forward(self, voxel_values: Tensor) -> Tensor:
        return self._only(voxel_values=voxel_values)


class ExportablePoints(Exportable):
    """Clouds of as many points as a group has, or more."""

    heads: ClassVar[dict[str, Any]] = {
        "Model": AutoModel,
        "ForPointCloudClassification": Point2VecForPointCloudClassification,
    }
    names = ("point_values", "attention_mask")
    unit = "points"

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        config: Any = model.config
        self.shortest, self.longest = max(config.group_size, config.num_groups, 2), None
        self.traced, self.timed = Shape(3, 2 * self.shortest + 3), Shape(1, max(POINTS, self.shortest))
        self.checked = tuple(Shape(rows, self.shortest + more) for rows, more in ((1, 0), (2, 11), (5, 43)))

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        mask = self._masked(shape)
        values = torch.randn(shape.rows, shape.length, 3, generator=torch.Generator().manual_seed(seed))
        return {"point_values": values * mask.unsqueeze(-1), "attention_mask": mask}

    def forward(self, point_values: Tensor, attention_mask: Tensor) -> Tensor:
        return self._only(point_values=point_values, attention_mask=attention_mask)


class ExportableAvSpeech(Exportable):
    """Sound and mouth crops of any number of frames."""

    heads: ClassVar[dict[str, Any]] = {"Model": AutoModel, "ForCTC": AutoModelForCTC}
    names = ("input_features", "pixel_values", "attention_mask")
    unit = "frames"
    shortest, longest = 2, None
    traced, timed = Shape(3, 7), Shape(1, 25 * SECONDS)
    checked = (Shape(1, 2), Shape(2, 5), Shape(5, 11))

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        config: Any = self.model.config
        mask, generator = self._masked(shape), torch.Generator().manual_seed(seed)
        frame = (config.num_channels, config.image_size, config.image_size)
        bins = config.num_mel_bins * config.num_stacked_frames
        sound = torch.randn(shape.rows, shape.length, bins, generator=generator)
        video = torch.randn(shape.rows, shape.length, *frame, generator=generator)
        return {
            "input_features": sound * mask.unsqueeze(-1),
            "pixel_values": video * mask.view(*mask.shape, 1, 1, 1),
            "attention_mask": mask,
        }

    def forward(self, input_features: Tensor, pixel_values: Tensor, attention_mask: Tensor) -> Tensor:
        return self._only(input_features=input_features, pixel_values=pixel_values, attention_mask=attention_mask)


class ExportableVideo(ExportableVision):
    """Clips without skeletons, of as many frames as there are positions."""

    heads: ClassVar[dict[str, Any]] = {"Model": AutoModel, "ForVideoClassification": AutoModelForVideoClassification}
    unit = "clips"

    def example(self, shape: Shape, seed: int = 0) -> Inputs:
        config: Any = self.model.config
        generator = torch.Generator().manual_seed(seed)
        frame = (config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(shape.rows, config.max_position_embeddings, *frame, generator=generator)}


EXPORTS: Registry[type[Exportable]] = Registry(
    "export",
    {
        AudioData: ExportableAudio,
        SpectrogramData: ExportableSpectrogram,
        ImageData: ExportableVision,
        SkeletonVideoData: ExportableVideo,
        AvSpeechData: ExportableAvSpeech,
        TextData: ExportableText,
        VolumeData: ExportableVolumes,
        PointsData: ExportablePoints,
    },
)


def exportable(model: PreTrainedModel) -> Exportable:
    return EXPORTS[modality_of(model.config.model_type)](model).eval()


def trace(model: Exportable) -> ExportedProgram:
    """The graph of a model, for any batch and any length that the model takes."""
    inputs: Sequence[Tensor] = tuple(model.example(model.traced).values())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer about itself
        # Strides of windows and of convolutions raise questions about lengths whose answer is always the same but that
        # the tracer cannot prove: they are asked when the graph runs.
        program = torch.export.export(
            model, tuple(inputs), dynamic_shapes=model.dims(), prefer_deferred_runtime_asserts_over_guards=True
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names folders of this machine
    return program
