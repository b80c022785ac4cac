"""Run folders as finished runs leave them, in a second: tiny random weights, and what a run writes beside them."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

from tests.finetune.encoders import PRETRAINING, encoder_folder, processor


LOG = [
    {"step": 0, "epoch": 0, "probe/knn_student": 0.197, "training_seconds": 0.0},
    {
        "step": 3, "epoch": 1.5, "loss": 3.895, "learning_rate": 0.00096, "target_std": 0.4863,
        "prediction_std": 0.1275,
        "position_std": 0.4554, "effective_rank": 64.02, "ema_decay": 0.999045, "samples_per_second": 42.71,
        "grad_norm": 1.545, "training_seconds": 4.548,
    },
    {
        "step": 6, "epoch": 3.0, "loss": 2.163, "learning_rate": 0.00019, "target_std": 0.4953,
        "prediction_std": 0.1502,
        "position_std": 0.4675, "effective_rank": 58.83, "ema_decay": 0.9999, "samples_per_second": 38.4,
        "grad_norm": 0.3116, "probe/knn_student": 0.384, "training_seconds": 9.117,
    },
]  # fmt: skip
RUN = {
    "command": "pretraining/run.py recipe.yaml --sources '[{path: /home/me/secret project/clips}]'",
    "versions": {"data2vec": "0.1.0", "torch": "2.13.0+cpu"},
    "python": "3.11.7",
    "device": "cpu, 1 threads",
    "processes": 2,
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "hardware": {"cpu": "A Processor 9000", "cores": 7, "memory_gib": 23.4, "gpus": []},
}
HEADS = {
    "ctc": ("audio", AutoModelForCTC, "speech recognition", {"wer": 0.709, "cer": 0.557}),
    "sounds": ("audio", AutoModelForAudioClassification, "audio_classification", {"accuracy": 0.8125}),
    "images": ("vision", AutoModelForImageClassification, "image_classification", {"accuracy": 0.537, "top5": 0.931}),
    "texts": ("text", AutoModelForSequenceClassification, "text-classification", {"accuracy": 0.6, "score": 0.6}),
}


def pretrained(folder: Path, modality: str, family: str) -> Path:
    """A finished pretraining run, with what a push must leave behind."""
    folder.mkdir(parents=True)
    encoder_folder(folder, modality, family)
    whole = PRETRAINING[modality, family](AutoConfig.from_pretrained(folder))
    whole.save_pretrained(folder / "pretraining")
    processor(modality).save_pretrained(folder / "pretraining")
    write_record(
        folder,
        {
            "model": {"model_type": AutoConfig.from_pretrained(folder).model_type},
            "objective": {"top_k_layers": 2},
            "data": {
                "sources": [{"path": "/home/me/secret project/clips", "split": "train", "license": "cc-by-4.0"}],
                "probe": {"path": "~/labelled", "test_split": "held_out"},
            },
            "training": {"output_dir": "/home/me/run", "learning_rate": 0.002, "max_steps": 6, "seed": 17},
        },
    )
    for name in (
        "checkpoint-6/optimizer.pt",
        "training_args.bin",
        "logs/rank-0.log",
        "health.json",
        ".env",
        "notes.txt",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def fine_tuned(folder: Path, head: str, family: str) -> Path:
    """A finished fine-tuning run."""
    modality, auto, task, metrics = HEADS[head]
    folder.mkdir(parents=True)
    encoder = encoder_folder(folder / "encoder", modality, family) if (folder / "encoder").mkdir() is None else None
    fields: dict[str, Any] = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    saved: Any = processor(modality)
    if head == "ctc":
        vocabulary = {"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        tokenizer = Wav2Vec2CTCTokenizer(folder / "vocab.json", bos_token=None, eos_token=None)
        saved, fields = Wav2Vec2Processor(saved, tokenizer), {"vocab_size": 5, "pad_token_id": 0}
    torch.manual_seed(1)
    auto.from_pretrained(encoder, **fields).save_pretrained(folder)
    saved.save_pretrained(folder)
    for path in sorted((folder / "encoder").iterdir()):
        path.unlink()
    (folder / "encoder").rmdir()
    write_record(
        folder,
        {
            "model": {"model_name_or_path": "/home/me/encoders/mine"},
            "data": {
                "train": {"path": "/data/words", "split": "train"},
                "test": {"path": "/data/words", "split": "test"},
            },
            "task": {},
            "training": {"output_dir": "/home/me/fine", "learning_rate": 0.001, "max_steps": 6},
        },
    )
    results = {
        "test": {"loss": 2.39, **metrics, "examples": 1499},
        "main": {"split": "test", "metric": next(iter(metrics)), "value": next(iter(metrics.values()))},
        "run": {"task": task, "from_scratch": False, "seed": 23, "train_examples": 5749, "left_out": {}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "predictions").mkdir()
    (folder / "predictions" / "test.jsonl").write_text('{"input": "a private clip"}\n')
    return folder


def write_record(folder: Path, recipe: dict[str, Any]) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps(RUN))
    state = {"global_step": 6, "max_steps": 6, "log_history": LOG}
    (folder / "trainer_state.json").write_text(json.dumps(state))


def example(modality: str) -> dict[str, torch.Tensor]:
    """Inputs of an encoder."""
    generator = torch.Generator().manual_seed(3)
    if modality == "audio":
        return {"input_values": torch.randn(2, 4007, generator=generator)}
    if modality == "vision":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    if modality == "points":
        return {"point_values": torch.randn(2, 31, 3, generator=generator)}
    return {"input_ids": torch.randint(5, 20, (2, 13), generator=generator)}
