"""Configurations of data2vec 2.0. The defaults are the published base recipes, their objective included."""

from math import prod
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_objective import ObjectiveConfig
from .ranges import check_ranges, require


Sizes = int | list[int] | tuple[int, ...]


@strict
class Data2Vec2Config(PreTrainedConfig):
    """What the three modalities share.

    Args:
        hidden_size, num_attention_heads, intermediate_size, layer_norm_eps: of every block.
        num_hidden_layers (`int`): blocks that targets can be taken from.
        num_prenet_layers (`int`): blocks in front of them, alike but for that.
        layer_norm_first (`bool`): pre-norm blocks, with a final norm and without one in front of the first block; off:
            post-norm, as data2vec 2.0 is published.
        add_positions_to_every_layer (`bool`): positions are added in front of every block, not of the first alone
            (Point2Vec).
        num_extra_tokens (`int`): learned tokens in front of the sequence (CLS, utterance tokens); the outputs of
            encoders hold them too, in front.
        hidden_dropout (`float`): after the embedding, the attention and the feed-forward layer.
        attention_dropout, activation_dropout: on attention weights, and inside the feed-forward layer.
        layer_scale_init_value (`float`): each residual branch is multiplied by a factor per channel that starts at
            this; 0: by none.
        layerdrop (`float`): share of blocks left out in training.
        drop_path_rate (`float`): stochastic depth of the last block; it grows linearly from 0 at the first.
        initializer_range (`float`): standard deviation of linear layers and embeddings at the start.
        classifier_dropout (`float`, *optional*): in front of the heads' linear layers, `hidden_dropout` if not given.
        objective (`dict`, *optional*): the numbers of pretraining, see [`ObjectiveConfig`]; the published base recipe
            if not given.

    Raises:
        ValueError: a value of the wrong type or outside its range, or a switch of the original that is not built; the
            message names the field.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_prenet_layers: int = 0
    layer_norm_first: bool = False
    add_positions_to_every_layer: bool = False
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    num_extra_tokens: int = 0
    layer_norm_eps: float = 1e-5
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    activation_dropout: float | int = 0.0
    layer_scale_init_value: float | int = 0.0
    layerdrop: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float | int = 0.02
    classifier_dropout: float | int | None = None
    objective: dict[str, Any] | None = None

    default_objective: ClassVar[dict[str, Any]] = {}
    objective_class: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig
    remote_classes: ClassVar[dict[str, str]] = {}  # Auto class -> file.Class, for folders that carry the code
    axes: ClassVar[int] = 1  # of the token grid, for a convolutional decoder
    use_alibi: ClassVar[bool] = False
    first_extra_token_is_zero: ClassVar[bool] = False  # at the start of training
    use_context_norm: ClassVar[bool] = True  # in front of the first block
    use_final_norm: ClassVar[bool] = True  # behind pre-norm blocks
    # switches of the original's model, modality and decoder -> the only value that is built, and that recipes use
    original_switches: ClassVar[dict[str, Any]] = {
        "norm_affine": True,
        "dropout_input": 0,
        "shared_decoder": None,
        "recon_loss": 0,
        "d2v_loss": 1,
        "local_grad_mult": 1,
        "keep_masked_pct": 0,
        "mask_dropout": 0,
        "mask_prob_min": None,
        "add_masks": False,
        "remove_masks": False,
        "expand_adjacent": False,
        "non_overlapping": False,
        "mask_channel_prob": 0,
        "encoder_zero_mask": True,
        "use_alibi_encoder": False,
        "learned_alibi": False,
        "learned_alibi_scale_per_layer": False,
        "add_positions_masked": False,
        "add_positions_all": False,
        "projection_ratio": 2,
    }

    def __post_init__(self, **kwargs: Any) -> None:
        self.check_original_switches(kwargs)
        super().__post_init__(**kwargs)
        self.objective = self.objective_class.from_dict(self.objective or self.default_objective).to_dict()
        self.auto_map = dict(self.remote_classes) | (getattr(self, "auto_map", None) or {})

    @classmethod
    def check_original_switches(cls, values: dict[str, Any]) -> None:
        """Refuse, by name, what the original implementation offers and neither a published checkpoint nor recipe uses.

        Args:
            values: any fields of the original's configuration; those of other names are passed over.
        """
        for name, built in cls.original_switches.items():
            if values.get(name, built) != built:
                raise ValueError(
                    f"{name} = {values[name]!r} is not built for model type {cls.model_type!r}: no published "
                    f"checkpoint or recipe uses it; use {built!r}."
                )

    def validate_data2vec2(self) -> None:
        check_ranges(self)
        heads = self.num_attention_heads
        require("", self, {"num_attention_heads": (self.hidden_size % heads == 0, "a divisor of hidden_size")})


@strict
class Data2Vec2AudioConfig(Data2Vec2Config):
    """data2vec 2.0 in speech; the defaults are LibriSpeech base (arXiv 2212.07525, section 4.2).

    Args:
        conv_dim, conv_kernel, conv_stride: of the convolutional front end.
        num_conv_pos_embeddings, conv_pos_kernel_size, num_conv_pos_embedding_groups: number, kernel and groups of the
            positional convolutions.
        mask_time_prob, mask_time_length, mask_feature_prob, mask_feature_length: SpecAugment in fine-tuning, off by
            default: share and length of the spans of frames, and of channels, that are zeroed.
        vocab_size, pad_token_id, final_dropout, ctc_loss_reduction, ctc_zero_infinity: of the CTC head; `pad_token_id`
            is the blank.
        classifier_proj_size, use_weighted_layer_sum: of the classification heads; without a size there is no
            projection, and the classifier reads the mean of the frames.
    """

    model_type = "data2vec2-audio"
    layerdrop: float | int = 0.05
    conv_dim: list[int] | tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: list[int] | tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: list[int] | tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 5
    conv_pos_kernel_size: int = 19
    num_conv_pos_embedding_groups: int = 16
    mask_time_prob: float | int = 0.0
    mask_time_length: int = 10
    mask_feature_prob: float | int = 0.0
    mask_feature_length: int = 64
    vocab_size: int = 32
    pad_token_id: int = 0
    final_dropout: float | int = 0.1
    ctc_loss_reduction: str = "sum"
    ctc_zero_infinity: bool = False
    classifier_proj_size: int | None = 256
    use_weighted_layer_sum: bool = False

    use_alibi: ClassVar[bool] = True
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "block", "prob": 0.5, "length": 5, "adjust": 0.05},
        "views": 8,
        "top_k_layers": 8,
        "target_layer_norm": "instance",
        "decoder": {"dim": 384, "layers": 4, "kernel": 7, "groups": 16, "input_dropout": 0.1},
        "ema_decay": 0.999,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 75_000,
        "ema_scope": "encoder",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_data2vec2.Data2Vec2AudioConfig",
        "AutoModel": "modeling_data2vec2.Data2Vec2AudioModel",
        "AutoModelForPreTraining": "modeling_data2vec2_pretraining.Data2Vec2AudioForPreTraining",
        "AutoModelForCTC": "heads.Data2Vec2AudioForCTC",
        "AutoModelForAudioClassification": "heads.Data2Vec2AudioForSequenceClassification",
        "AutoModelForAudioFrameClassification": "heads.Data2Vec2AudioForAudioFrameClassification",
    }
    original_switches: ClassVar[dict[str, Any]] = {
        **Data2Vec2Config.original_switches,
        "use_alibi_encoder": True,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "extractor_mode": "layer_norm",
        "conv_pos_pre_ln": False,
    }

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples a frame."""
        return prod(self.conv_stride)

    def validate_audio(self) -> None:
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ValueError(
                f"conv_dim = {self.conv_dim}, conv_kernel = {self.conv_kernel} and conv_stride = {self.conv_stride} "
                "must each have one number a convolution."
            )
        groups = self.num_conv_pos_embedding_groups
        divides = groups > 0 and self.hidden_size % groups == 0
        checks = {
            "num_conv_pos_embedding_groups": (divides, f"a divisor of hidden_size = {self.hidden_size}"),
            "pad_token_id": (0 <= self.pad_token_id < self.vocab_size, f"in the vocabulary of {self.vocab_size}"),
            "ctc_loss_reduction": (self.ctc_loss_reduction in ("sum", "mean"), "'sum' or 'mean'"),
        }
        require("", self, checks)


@strict
class Data2Vec2VisionConfig(Data2Vec2Config):
    """data2vec 2.0 in vision; the defaults are ImageNet base (arXiv 2212.07525, section 4.1).

    Args:
        image_size, patch_size (`int` or two: height and width): in pixels. Images of other sizes can be read; the grid
            of `image_size` is what positions are relative to.
        num_channels (`int`): of an image.
        use_mean_pooling (`bool`): the classifier reads the mean of the patches; off: the last extra token.
    """

    model_type = "data2vec2-vision"
    num_hidden_layers: int = 10
    num_prenet_layers: int = 2
    num_extra_tokens: int = 1
    layer_norm_eps: float = 1e-6
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    image_size: Sizes = 224
    patch_size: Sizes = 16
    num_channels: int = 3
    use_mean_pooling: bool = True

    axes: ClassVar[int] = 2
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "block", "prob": 0.8, "length": 3, "adjust": 0.07, "inverse": True},
        "views": 16,
        "top_k_layers": 10,
        "target_layer_norm": "instance",
        "target_norm": "layer",
        "cls_loss_weight": 2.56,
        "decoder": {"dim": 768, "layers": 6, "kernel": 3, "groups": 16},
        "ema_decay": 0.9998,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 100_000,
        "ema_scope": "all",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_data2vec2.Data2Vec2VisionConfig",
        "AutoModel": "modeling_data2vec2.Data2Vec2VisionModel",
        "AutoModelForPreTraining": "modeling_data2vec2_pretraining.Data2Vec2VisionForPreTraining",
        "AutoModelForImageClassification": "heads.Data2Vec2VisionForImageClassification",
    }
    original_switches: ClassVar[dict[str, Any]] = {
        **Data2Vec2Config.original_switches,
        "fixed_positions": True,
        "transformer_decoder": False,
        "enc_dec_transformer": False,
    }

    def validate_vision(self) -> None:
        sizes = [(s, s) if isinstance(s, int) else tuple(s) for s in (self.image_size, self.patch_size)]
        whole = len(sizes[0]) == 2 and all(image % patch == 0 for image, patch in zip(*sizes, strict=False))
        checks = {
            "patch_size": (len(sizes[1]) == 2, "one number, or height and width"),
            "image_size": (whole, f"one number, or height and width, in multiples of patch_size = {self.patch_size}"),
            "hidden_size": (self.hidden_size % 4 == 0, "a multiple of 4 for sine-cosine positions"),
            "num_extra_tokens": (self.use_mean_pooling or self.num_extra_tokens > 0, "1 or more without mean pooling"),
        }
        require("", self, checks)


@strict
class Data2Vec2TextConfig(Data2Vec2Config):
    """data2vec 2.0 in language; the defaults are Books and Wikipedia base (arXiv 2212.07525, section 4.3).

    Args:
        vocab_size, pad_token_id, bos_token_id, eos_token_id: the tokenizer's.
        max_position_embeddings (`int`): positions; as in RoBERTa, `pad_token_id` + 1 of them are not used.
    """

    model_type = "data2vec2-text"
    vocab_size: int = 50265
    max_position_embeddings: int = 514
    pad_token_id: int = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2

    use_context_norm: ClassVar[bool] = False
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "random", "prob": 0.48},
        "views": 8,
        "top_k_layers": 12,
        "target_layer_norm": "instance",
        "loss_scale": 1.0,
        "head_layers": 2,
        "decoder": {
            "dim": 768,
            "layers": 5,
            "kernel": 9,
            "groups": 1,
            "residual": False,
            "input_dropout": 0.1,
        },
        "ema_decay": 0.9999,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 100_000,
        "ema_scope": "blocks",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_data2vec2.Data2Vec2TextConfig",
        "AutoModel": "modeling_data2vec2.Data2Vec2TextModel",
        "AutoModelForPreTraining": "modeling_data2vec2_pretraining.Data2Vec2TextForPreTraining",
        "AutoModelForSequenceClassification": "heads.Data2Vec2TextForSequenceClassification",
        "AutoModelForTokenClassification": "heads.Data2Vec2TextForTokenClassification",
        "AutoModelForQuestionAnswering": "heads.Data2Vec2TextForQuestionAnswering",
    }
    original_switches: ClassVar[dict[str, Any]] = {
        **Data2Vec2Config.original_switches,
        "learned_pos": True,
        "layernorm_embedding": True,
        "no_scale_embedding": True,
        "no_token_positional_embeddings": False,
    }

    def validate_text(self) -> None:
        for name in ("num_prenet_layers", "num_extra_tokens"):
            if getattr(self, name):
                raise ValueError(f"{name} = {getattr(self, name)} is not built in language: no recipe uses it, use 0.")
        most = min(self.vocab_size, self.max_position_embeddings - 1) - 1
        words = f"at least 0 and at most {most}, in the vocabulary and with positions left behind it"
        require("", self, {"pad_token_id": (0 <= self.pad_token_id <= most, words)})


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .heads import Data2Vec2AudioForCTC  # noqa: F401
    from .modeling_data2vec2_pretraining import Data2Vec2AudioForPreTraining  # noqa: F401
