"""Tiny universal encoders, of the inputs of the specialised ones."""

from typing import Any

from data2vec import modeling
from tests.modeling import tiny_data2vec2, tiny_point2vec


ROWS: dict[str, Any] = {"row_size": 53, "num_frequencies": 5, "max_positions": 64}
MODELS: dict[Any, str] = {
    modeling.UniversalAudioModel: "audio",
    modeling.UniversalAudioForPreTraining: "audio",
    modeling.UniversalVisionModel: "vision",
    modeling.UniversalVisionForPreTraining: "vision",
    modeling.UniversalTextModel: "text",
    modeling.UniversalTextForPreTraining: "text",
    modeling.UniversalPointsModel: "points",
    modeling.UniversalPointsForPreTraining: "points",
}


def config_of(model_class: Any, **kwargs: Any) -> Any:
    """Chunks of 11 samples, patches of 4 x 4 pixels, 37 ids, groups of 5 points."""
    config_class, kind = model_class.config_class, MODELS[model_class]
    if kind == "points":
        given = tiny_point2vec.points_config().to_diff_dict()
    else:
        given = tiny_data2vec2.CONFIGS[kind]().to_diff_dict()
    for name in ("model_type", "transformers_version", "auto_map", "conv_dim", "conv_kernel", "conv_stride"):
        given.pop(name, None)
    chunk = {"conv_dim": (1,), "conv_kernel": (11,), "conv_stride": (11,)} if kind == "audio" else {}
    return config_class(**(given | ROWS | chunk | kwargs))


def inputs(kind: str, padded: bool = False) -> dict[str, Any]:
    return (tiny_point2vec if kind == "points" else tiny_data2vec2).inputs(kind, padded)
