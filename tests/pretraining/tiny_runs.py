"""Recipes of seconds for every system: three modalities, both families, with dropout and LayerDrop among them."""

import io
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
import yaml


ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
CONVOLUTIONS = {
    "conv_dim": [8, 8], "conv_kernel": [40, 16], "conv_stride": [20, 16],
    "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3, "layerdrop": 0.3,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "vision-1": {
        "model_type": "data2vec-vision", "image_size": 8, "patch_size": 2, "num_channels": 1,
        "use_absolute_position_embeddings": True, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
    "text-1": {"model_type": "data2vec-text", "vocab_size": 261, "max_position_embeddings": 26, "type_vocab_size": 1},
    "audio-1": {"model_type": "data2vec-audio", "hidden_dropout": 0.1, "num_conv_pos_embedding_groups": 4}
    | CONVOLUTIONS,
    "vision-2": {
        "model_type": "data2vec2-vision", "image_size": 8, "patch_size": 2, "num_channels": 1,
        "num_prenet_layers": 1, "hidden_dropout": 0.1,
    },
    "text-2": {"model_type": "data2vec2-text", "vocab_size": 261, "max_position_embeddings": 26},
    "audio-2": {"model_type": "data2vec2-audio", "num_conv_pos_embedding_groups": 4} | CONVOLUTIONS,
    "emotion2vec-2": {"model_type": "emotion2vec", "num_conv_pos_embedding_groups": 4, "num_prenet_layers": 1}
    | CONVOLUTIONS,
    "eat-2": {"model_type": "eat", "num_mel_bins": 8, "patch_size": [4, 2], "max_position_embeddings": 12},
    "points-1": {"model_type": "point2vec", "num_groups": 7, "group_size": 5, "drop_path_rate": 0.1},
    "figures-1": {
        "model_type": "sv-data2vec", "max_position_embeddings": 8, "image_size": 16, "resnet_width": 2,
        "num_persons": 1, "num_joints": 15,
    },
    "av-1": {
        "model_type": "av-data2vec", "image_size": 16, "resnet_width": 2, "num_mel_bins": 5, "num_stacked_frames": 4,
        "num_conv_pos_embeddings": 1, "conv_pos_kernel_size": 3, "num_conv_pos_embedding_groups": 4, "layerdrop": 0.3,
    },
}  # fmt: skip
DECODER = {"dim": 8, "layers": 1, "kernel": 3, "groups": 1}
MASKING: dict[str, dict[str, Any]] = {
    "vision-1": {"method": "beit_block", "ratio": 0.6, "min_patches": 2},
    "text-1": {"method": "token", "prob": 0.4, "length": 1},
    "audio-1": {"method": "span", "prob": 0.65, "length": 3},
    "vision-2": {"method": "block", "prob": 0.6, "length": 2, "adjust": 0.0, "inverse": True},
    "text-2": {"method": "random", "prob": 0.48},
    "audio-2": {"method": "block", "prob": 0.5, "length": 2, "adjust": 0.0},
    "emotion2vec-2": {"method": "block", "prob": 0.5, "length": 2, "adjust": 0.0},
    "eat-2": {"method": "block", "prob": 0.6, "length": 2, "adjust": 0.0, "inverse": True},
    "points-1": {"method": "neighbours", "prob": 0.6},
    "figures-1": {"method": "random", "prob": 0.66},
    "av-1": {"method": "span", "prob": 0.5, "length": 2},
}
JOINT = "joint-2"  # a system of three of them
# what the methods without family have besides
OBJECTIVES: dict[str, dict[str, Any]] = {
    "points-1": {"decoder": {"method": "transformer", "layers": 1, "add_positions_to_every_layer": True}},
    "figures-1": {
        "decoder": {"method": "transformer", "layers": 1, "learned_positions": True},
        "student_streams": {"video+skeleton": [1.0, 0.2], "video": [0.0, 0.8]}, "streams_anneal_steps": 6,
        "teacher_streams": {"skeleton": [1.0, 1.0]}, "nested_masking": {"skeleton": 0.75},
    },
    "av-1": {
        "student_streams": {"audio+video": [1.0, 0.25], "video": [0.0, 0.75]},
        "streams_anneal_steps": 6, "teacher_streams": {"audio": [1.0, 1.0]}, "score_visible": {"video": 1.0},
    },
}  # fmt: skip


def write_sources(folder: Path) -> None:
    """Input to train on: 40 clips of 0.2 to 0.4 s in folder/audio, 8 text files of 60 lines, 40 clouds, 40 films."""
    for name in ("audio", "text"):
        (folder / name).mkdir(parents=True)
    for i in range(40):
        noise = np.random.default_rng(i).standard_normal(3200 + 80 * i) / 10
        soundfile.write(folder / "audio" / f"{i:02}.wav", noise, 16000)
    clips = [np.random.default_rng(i).integers(0, 256, (8 + i % 6, 20, 18), dtype=np.uint8) for i in range(40)]
    sounds = [(folder / "audio" / f"{i:02}.wav").read_bytes() for i in range(40)]
    datasets.Dataset.from_dict({"video": [_npy(clip) for clip in clips], "audio": sounds}).to_parquet(
        folder / "speech.parquet"
    )
    clouds = [np.random.default_rng(i).normal(size=3 * (20 + i % 9)).tolist() for i in range(40)]
    datasets.Dataset.from_dict({"points": clouds}).to_parquet(folder / "clouds.parquet")
    words = "the quick brown fox jumps over a lazy dog and then sleeps until noon".split()
    for i in range(8):
        rng = random.Random(i)
        lines = [" ".join(rng.choices(words, k=rng.randint(4, 20))) for _ in range(60)]
        (folder / "text" / f"{i}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def recipe(system: str, sources: Path, output: Path, **fields: Any) -> dict[str, Any]:
    """A tiny recipe of a system; `fields` are training's, and data's `streaming`."""
    if system == JOINT:
        return joint_recipe(sources, output, **fields)
    modality, family = system.split("-")
    sounds = {"sources": [{"path": str(sources / "audio")}], "max_seconds": 0.35}
    sounds |= {} if fields.get("gradient_accumulation_steps") else {"batch_seconds": 1.2}
    data: dict[str, Any] = {
        "vision": {
            "sources": [{"path": "builtin:digits"}], "crop": "shift", "shift_pixels": 1, "flip": 0.0,
            "color_jitter": 0.0,
        },
        "text": {
            "sources": [{"path": str(sources / "text" / "*.txt")}], "tokenizer": "builtin:byte-bpe", "block_size": 24,
        },
        "audio": {**sounds, "min_seconds": 0.1},
        "emotion2vec": {**sounds, "min_seconds": 0.1},
        "eat": {**sounds, "min_seconds": 0.2},
        "points": {"sources": [{"path": str(sources / "clouds.parquet")}], "num_points": 24, "min_points": 16},
        "figures": {"sources": [{"path": "builtin:figures"}]},
        "av": {"sources": [{"path": str(sources / "speech.parquet")}], "max_seconds": 0.6, "min_seconds": 0.2},
    }[modality]  # fmt: skip
    if fields.pop("streaming", False):
        data |= {"streaming": True, "shuffle_buffer": 20}
    objective = {
        "masking": MASKING[system], "top_k_layers": 2, "ema_decay": 0.9, "ema_end_decay": 0.99, "ema_anneal_steps": 6,
    }  # fmt: skip
    if family == "2":
        objective |= {"views": 2, "decoder": DECODER}
    objective |= OBJECTIVES.get(system, {})
    training = {
        "output_dir": str(output), "max_steps": 8, "save_steps": 2, "logging_steps": 3, "learning_rate": 1e-3,
        "per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "save_total_limit": 2, "guard_patience": 0,
    }  # fmt: skip
    model = ENCODER | MODELS[system]
    return {"model": model, "objective": objective, "data": data, "training": training | fields}


def joint_recipe(sources: Path, output: Path, **fields: Any) -> dict[str, Any]:
    """Images, text and speech on one trunk; speech has LayerDrop."""
    singles = {name: recipe(f"{name}-2", sources, output, **fields) for name in ("vision", "text", "audio")}
    schedule = {name: value for name, value in singles["text"]["objective"].items() if name.startswith("ema_")}
    modalities = {
        name: {
            "model": {key: value for key, value in single["model"].items() if key not in (*ENCODER, "hidden_dropout")},
            "objective": {key: value for key, value in single["objective"].items() if key not in schedule},
            "data": single["data"],
        }
        for name, single in singles.items()
    }
    modalities["text"]["weight"] = 0.5
    model = {"model_type": "data2vec2-joint", **ENCODER}
    training = singles["text"]["training"]
    return {"model": model, "objective": schedule, "modalities": modalities, "training": training}


def staged_recipe(sources: Path, output: Path, **section: Any) -> dict[str, Any]:
    """Letters, then images; 4 updates each, a checkpoint after every second. `section` holds fields of `stages`."""
    made = joint_recipe(sources, output)
    made["modalities"] = {name: made["modalities"][name] for name in ("text", "vision")}
    made["modalities"]["text"].pop("weight")
    made["modalities"]["vision"]["data"]["probe"] = {"path": "builtin:digits"}
    made["training"] |= {"max_steps": 4, "logging_steps": 1, "probe_steps": 4}
    made["objective"]["ema_anneal_steps"] = 4
    return made | {"stages": {"order": ["text", "vision"], "buffer": 0.3, "clusters": 0.05, **section}}


def write_recipe(folder: Path, name: str, system: str, sources: Path, **fields: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe(system, sources, folder / name, **fields)), encoding="utf-8")
    return path
