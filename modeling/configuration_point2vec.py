"""Configuration of Point2Vec. The defaults are the published recipe on ShapeNet, its objective included."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_data2vec2 import Data2Vec2Config
from .ranges import require


Pooling = Literal["mean_max", "mean", "max", "cls", "cls_mean_max"]


@strict
class Point2VecConfig(Data2Vec2Config):
    """Point2Vec, data2vec for point clouds (arXiv 2303.16570).

    With `objective.decoder` null it is the paper's data2vec-pc: hidden tokens are replaced in place, and positions
    tell the student the whole shape.

    Args:
        num_groups, group_size (`int`): tokens of a cloud, and points of each.
        group_radius (`float`, *optional*): a group is the first points so near to its centre, and offsets are in
            shares of it; the nearest points if not given.
        classifier_pooling (`str`): what the classifier reads of the tokens: `"mean_max"`, largest values and means;
            `"mean"`; `"max"`; `"cls"`, a learned class token; `"cls_mean_max"`, all of these.
        classifier_proj_size (`int`, *optional*): width inside the classifier; one linear layer if `None`.
        label_smoothing (`float`): of the classifier's loss.
        num_categories (`int`): kinds of objects that part segmentation is told.
        segmentation_layers (`list[int]`): numbers of the blocks, from 0, whose outputs part segmentation reads.
        segmentation_proj_size (`int`): width inside its head.
    """

    model_type = "point2vec"
    hidden_size: int = 384
    num_attention_heads: int = 6
    intermediate_size: int = 1536
    layer_norm_first: bool = True
    add_positions_to_every_layer: bool = True
    hidden_dropout: float | int = 0.0
    attention_dropout: float | int = 0.05
    drop_path_rate: float | int = 0.25
    num_groups: int = 64
    group_size: int = 32
    group_radius: float | None = None
    classifier_pooling: Pooling = "mean_max"
    classifier_proj_size: int | None = 256
    classifier_dropout: float | int | None = 0.5
    label_smoothing: float | int = 0.2
    num_categories: int = 16
    segmentation_layers: list[int] | tuple[int, ...] = (3, 7, 11)
    segmentation_proj_size: int = 512

    use_context_norm: ClassVar[bool] = False
    default_objective: ClassVar[dict[str, Any]] = {
        "masking": {"method": "random", "prob": 41 / 64},  # the original hides int(0.65 * 64)
        "top_k_layers": 6,
        "target_tap": "end_of_block",
        "target_layer_norm": "layer",
        "target_norm": "layer",
        "loss_beta": 2.0,
        "loss_scale": 1 / 384,
        "decoder": {
            "method": "transformer",
            "layers": 4,
            "drop_path_rate": 0.25,
            "add_positions_to_every_layer": True,
        },
        "ema_decay": 0.9998,
        "ema_end_decay": 0.99999,
        "ema_anneal_steps": 16_200,
        "ema_delay": 1,
        "ema_scope": "blocks",
    }
    remote_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_point2vec.Point2VecConfig",
        "AutoFeatureExtractor": "feature_extraction_point2vec.Point2VecFeatureExtractor",
        "AutoModel": "modeling_point2vec.Point2VecModel",
        "AutoModelForPreTraining": "modeling_point2vec.Point2VecForPreTraining",
    }

    def validate_points(self) -> None:
        radius, dim = self.group_radius, self.classifier_proj_size
        checks = {
            "num_groups": (self.num_groups >= 2, "2 or more"),
            "group_radius": (radius is None or 0 < radius < float("inf"), "a positive number, or null"),
            "classifier_proj_size": (dim is None or dim >= 1, "1 or more, or null for one linear layer"),
            "segmentation_layers": (
                len(self.segmentation_layers) > 0 and min(self.segmentation_layers) >= 0,
                "numbers of blocks, from 0",
            ),
            "num_extra_tokens": (self.num_extra_tokens == 0, "0: Point2Vec has no extra tokens"),
        }
        require("", self, checks)


def _travel_together() -> None:
    """Never called: `save_pretrained` copies to a folder only those files of ours that such lines lead to."""
    from .feature_extraction_point2vec import Point2VecFeatureExtractor  # noqa: F401
    from .heads_point2vec import Point2VecForPointCloudClassification  # noqa: F401
