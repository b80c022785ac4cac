"""Configuration of emotion2vec (arXiv 2312.15185); the defaults are the published base model and its objective."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import Data2Vec2AudioConfig


@strict
class Emotion2vecConfig(Data2Vec2AudioConfig):
    """data2vec 2.0 in speech with utterance tokens, trained on for emotion from weights of data2vec 2.0.

    A folder of data2vec 2.0 in speech opens as one of these, see [`get_config_dict`]. `classifier_proj_size` is null:
    the published classifiers are one linear layer on the mean of the frames.
    """

    model_type = "emotion2vec"
    num_hidden_layers: int = 8
    num_prenet_layers: int = 4
    num_extra_tokens: int = 10
    classifier_proj_size: int | None = None

    first_extra_token_is_zero: ClassVar[bool] = True
    starts_from: ClassVar[tuple[str, ...]] = (Data2Vec2AudioConfig.model_type,)
    # What differs from data2vec 2.0. The training code is not public: the weight is the paper's alpha, taken as
    # relative to a mean (0.1 to 10 differ by two points there); fairseq's line would make it samples * views.
    own_objective: ClassVar[dict[str, Any]] = {
        "cls_loss_weight": 1.0,
        "cls_pooling": "tokens",
        "ema_anneal_steps": 20_000,
    }
    default_objective: ClassVar[dict[str, Any]] = Data2Vec2AudioConfig.default_objective | own_objective
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_emotion2vec.Emotion2vecConfig",
        "AutoModel": "modeling_emotion2vec.Emotion2vecModel",
        "AutoModelForPreTraining": "modeling_emotion2vec.Emotion2vecForPreTraining",
        "AutoModelForAudioClassification": "modeling_emotion2vec.Emotion2vecForSequenceClassification",
    }

    original_switches: ClassVar[dict[str, Any]] = {
        **Data2Vec2AudioConfig.original_switches,
        "adversarial_training": False,
    }

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a folder says; one of data2vec 2.0 in speech keeps its network and objective but for what is ours."""
        values, rest = super().get_config_dict(*args, **kwargs)
        if values.get("model_type") not in cls.starts_from:
            return values, rest
        dropped = ("architectures", "auto_map", "classifier_proj_size", "model_type", "num_extra_tokens")
        kept = {name: value for name, value in values.items() if name not in dropped}
        tokens = values.get("num_extra_tokens") or cls.num_extra_tokens
        objective = (values.get("objective") or Data2Vec2AudioConfig.default_objective) | cls.own_objective
        return kept | {"model_type": cls.model_type, "num_extra_tokens": tokens, "objective": objective}, rest


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .modeling_emotion2vec import Emotion2vecForPreTraining  # noqa: F401
