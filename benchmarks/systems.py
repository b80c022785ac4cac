"""The systems that the benchmarks time: a published base recipe, or a tiny one for tests, on made-up input.

Each is built as `run.py` builds it, so that what is timed is what trains: recipe -> arguments -> model, collator.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from data2vec.modeling.embed_audio import ConvFrames
from data2vec.pretraining.arguments import Run, override, read_recipe, resolve
from data2vec.pretraining.data.bad_examples import Ledger
from data2vec.pretraining.data.sampler import BatchSampler
from data2vec.pretraining.modalities.audio import AudioCollator
from data2vec.pretraining.modalities.build import PretrainingData
from data2vec.pretraining.modalities.image import ImageCollator
from data2vec.pretraining.modalities.text import TextCollator
from data2vec.pretraining.recipe import parse_yaml


SAMPLING_RATE = 16_000


@dataclass(frozen=True)
class System:
    """A recipe and its batch on one device.

    Attributes:
        length: of an example: seconds of sound, pixels of an image's side, or tokens.
        views: masks per sample; None in data2vec 1.
    """

    recipe: str
    batch: int
    length: int
    views: int | None = None


SYSTEMS = {
    "audio_v1": System("audio_base.yaml", batch=2, length=5),
    "audio_v2": System("audio_base_v2.yaml", batch=2, length=5, views=4),
    "vision_v1": System("vision_base.yaml", batch=8, length=224),
    "vision_v2": System("vision_base_v2.yaml", batch=4, length=224, views=4),
    "text_v1": System("text_base.yaml", batch=8, length=128),
    "text_v2": System("text_base_v2.yaml", batch=2, length=128, views=4),
}

TINY: dict[str, Any] = {
    "model.hidden_size": 32,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 48,
    "objective.top_k_layers": 2,
}
TINY_OF: dict[str, dict[str, Any]] = {
    "audio": {
        "model.conv_dim": [16, 16, 16, 16, 16, 16, 16],
        "model.num_conv_pos_embeddings": 2,
        "model.num_conv_pos_embedding_groups": 4,
    },
    "vision": {"model.image_size": 64, "model.patch_size": 8},
    "text": {"model.vocab_size": 199},
}
TINY_DECODER = {"audio": 16, "vision": 32, "text": 32}  # width
TINY_LENGTH = {"audio": 1, "vision": 64, "text": 32}


def build(
    name: str,
    *,
    size: str = "base",
    precision: str = "fp32",
    batch: int | None = None,
    length: int | None = None,
    views: int | None = None,
    dropout: bool = False,
    overrides: dict[str, str] | None = None,
    output_dir: str = "runs/benchmark",
) -> tuple[Run, PretrainingData]:
    """What trains a system, and its batches.

    Args:
        name: a key of `SYSTEMS`; batch, length and views are its own unless given.
        size: "base" or "tiny".
        precision: "fp32" or "bf16".
        dropout: leave the recipe's dropouts, LayerDrop and stochastic depth on.
        overrides: fields of the recipe -> values in YAML, as on the command line.
    """
    system, modality = SYSTEMS[name], name.split("_")[0]
    batch = batch or system.batch
    length = length or (TINY_LENGTH[modality] if size == "tiny" else system.length)
    views = views or system.views
    recipe = read_recipe_of(system.recipe)
    fields: dict[str, Any] = {
        "training.output_dir": output_dir,
        "training.max_steps": 10_000_000,
        "training.per_device_train_batch_size": batch,
        "training.bf16": precision == "bf16",
        "training.use_cpu": not torch.cuda.is_available(),
        "training.dataloader_num_workers": 0,
        "training.logging_steps": 10_000_000,
        "training.save_strategy": "no",
        "training.report_to": "none",
        "training.disable_tqdm": True,
        "training.guard_patience": 0,
    }
    if size == "tiny":
        fields |= TINY | TINY_OF[modality]
    if modality == "vision":
        fields["model.image_size"] = length
    if modality == "text":
        fields["data.block_size"] = length
    if views is not None:
        fields["objective.views"] = views
        if size == "tiny":
            fields["objective.decoder"] = recipe["objective"]["decoder"] | {"dim": TINY_DECODER[modality], "groups": 4}
    put(recipe, fields)
    recipe = override(recipe, [word for name, value in (overrides or {}).items() for word in (f"--{name}", value)])
    run = resolve(recipe)
    if not dropout:
        _no_dropout(recipe, run)
        run = resolve(recipe)
    return run, _data(run, batch, length, modality)


def read_recipe_of(name: str) -> dict[str, Any]:
    """A published recipe's sections, without its sources, which are not opened here."""
    recipe = read_recipe(Path(name))
    recipe["data"]["sources"] = [{"path": "made-up"}]
    recipe["data"].pop("batch_seconds", None)
    return recipe


def put(recipe: dict[str, Any], fields: dict[str, Any]) -> None:
    for path, value in fields.items():
        section, name = path.split(".")
        recipe[section][name] = value


def _no_dropout(recipe: dict[str, Any], run: Run) -> None:
    """Every dropout of the encoder and the decoder 0, LayerDrop and stochastic depth too: published code differs."""
    for name, value in run.config.to_dict().items():
        if ("dropout" in name or name in ("layerdrop", "drop_path_rate")) and isinstance(value, float):
            recipe["model"][name] = 0.0
    if recipe["objective"].get("decoder"):
        recipe["objective"]["decoder"] = {**recipe["objective"]["decoder"], "input_dropout": 0.0}


class MadeUp(Dataset[dict[str, Any]]):
    """A batch of random examples over and over, under ever new keys, so that masks differ."""

    def __init__(self, examples: list[dict[str, torch.Tensor]], size: int):
        self.examples, self.size, self.lengths = examples, size, None
        self.ledger = Ledger("train", 0.0, size)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {**self.examples[index % len(self.examples)], "epoch": epoch, "index": index, "name": str(index)}


class WordTokenizer:
    """What `TextCollator` asks of a tokenizer: RoBERTa's special ids and a number of words."""

    pad_token_id, all_special_ids = 1, [0, 1, 2, 3]

    def __init__(self, vocab_size: int):
        self.all_special_ids = [0, 1, 2, 3, vocab_size - 1]
        self._size = vocab_size

    def __len__(self) -> int:
        return self._size


def _data(run: Run, batch: int, length: int, modality: str) -> PretrainingData:
    generator = torch.Generator().manual_seed(1)
    seed, config = run.training.seed, run.config
    collator: Any
    if modality == "audio":
        rows = [{"input_values": torch.randn(length * SAMPLING_RATE, generator=generator)} for _ in range(batch)]
        frames = ConvFrames(tuple(config.conv_kernel), tuple(config.conv_stride))
        collator = AudioCollator(run.objective, frames, seed)
    elif modality == "vision":
        rows = [{"pixel_values": torch.randn(3, length, length, generator=generator)} for _ in range(batch)]
        side = length // config.patch_size
        collator = ImageCollator(run.objective, (side, side), seed)
    else:
        shape = (batch, length)
        ids = torch.randint(4, config.vocab_size - 1, shape, generator=generator)
        ids[:, 0], ids[:, -1] = 0, 2
        rows = [{"input_ids": row} for row in ids]
        tokenizer: Any = WordTokenizer(config.vocab_size)
        collator = TextCollator(run.objective, tokenizer, seed)
    dataset: Any = MadeUp(rows, size=batch * 1000)
    sampler = BatchSampler(None, len(dataset), seed=seed, batch_size=batch)
    return PretrainingData(dataset, sampler, collator, None)


def parse_arm(words: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """`KIND FIELD=VALUE VARIABLE=VALUE ...` -> kind, fields of the recipe, environment (all capitals)."""
    kind, *pairs = words.split()
    fields, environment = {}, {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"{pair!r} in the arm {words!r} is not FIELD=VALUE.")
        if name.isupper():
            environment[name] = value
        else:
            parse_yaml(value, name)
            fields[name] = value
    return kind, fields, environment
