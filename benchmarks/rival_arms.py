"""The arms of rivals.py: what each library trains, for a number of updates, on one encoder size.

Ours runs as users run it, through `data2vec.pretrain`. The others get a plain loop without logging, their images
decoded in memory and cropped as a batch; their modules are put together as their documentation does.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torchvision_on_cpu  # noqa: F401  # before transformers, which does not import without it
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    TrainerCallback,
    get_cosine_schedule_with_warmup,
    set_seed,
)

import data2vec
from data2vec.pretraining.arguments import read_recipe
from data2vec.pretraining.evaluation.probe import teacher_encoder, untrained_encoder


ROOT = Path(__file__).parents[1]
V1, V2 = ROOT / "docs/results/systems/cifar_v1.yaml", ROOT / "docs/runs/vision_cifar10_v2/recipe.yaml"
SIDE, PATCH = 32, 4
PATCHES = (SIDE // PATCH) ** 2
MEAN, STD, AREA = [0.491, 0.482, 0.447], [0.2, 0.2, 0.2], [0.2, 1.0]  # AREA: of a random crop, as MAE's
TIMED = 24  # updates, of which the first third warms up

Layers = Callable[[Tensor], list[Tensor]]  # pixels -> (batch, tokens, dim) of each layer, CLS in front of the patches


@dataclass(frozen=True)
class Trunk:
    """The encoder of every arm, and the decoder of masked autoencoders: MAE's, two thirds as wide and deep."""

    width: int = 128
    depth: int = 5
    heads: int = 4

    @property
    def decoder(self) -> tuple[int, int, int]:
        """Width (a multiple of 4 a head, for the sine positions), depth and heads."""
        step = 4 * self.heads
        return math.ceil(self.width * 2 / 3 / step) * step, round(self.depth * 2 / 3), self.heads


class Clock(TrainerCallback):
    """When each update ended, in processor time and on the wall."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def tick(self, *_: Any, **__: Any) -> None:
        self.ticks.append((time.process_time(), time.perf_counter()))

    on_train_begin = on_step_end = tick

    def between(self, start: int) -> tuple[float, float]:
        """Processor and wall seconds since update `start`."""
        (cpu, wall), (cpu_end, wall_end) = self.ticks[start], self.ticks[-1]
        return cpu_end - cpu, wall_end - wall

    @property
    def of_an_update(self) -> float:
        warm = len(self.ticks) // 3
        return self.between(warm)[0] / (len(self.ticks) - 1 - warm)


@dataclass
class Trained:
    """What a training left: its clock, the loss at the start and at the end, and how to read its networks."""

    networks: dict[str, Layers]
    clock: Clock
    loss: tuple[float, float]


Run = Callable[[Path, Trunk, dict[str, Any], int], Trained]  # data, encoder, settings, updates


@dataclass(frozen=True)
class Arm:
    title: str
    run: Run
    candidates: tuple[dict[str, Any], ...]


# Ours


def our_size(trunk: Trunk) -> dict[str, int]:
    blocks = {"num_hidden_layers": trunk.depth, "num_attention_heads": trunk.heads}
    return {"hidden_size": trunk.width, "intermediate_size": 4 * trunk.width, **blocks}


def our_untrained(trunk: Trunk) -> Any:
    return untrained_encoder(AutoConfig.for_model(**{**read_recipe(V2)["model"], **our_size(trunk)}), seed=0)


def our_layers(encoder: Any) -> Layers:
    return lambda pixels: list(encoder(pixel_values=pixels, output_hidden_states=True).hidden_states)


def ours(recipe: Path) -> Run:
    def run(data: Path, trunk: Trunk, settings: dict[str, Any], updates: int) -> Trained:
        clock, asked = Clock(), read_recipe(recipe)
        training, anneal = asked["training"], asked["objective"]["ema_anneal_steps"]
        share = updates / training["max_steps"]
        fields = {
            **{f"model.{name}": value for name, value in our_size(trunk).items()},
            "objective.top_k_layers": trunk.depth,
            "objective.ema_end_decay": 0.999,
            "objective.ema_anneal_steps": max(1, round(anneal * share)),
            **{"data.crop": "random_resized", "data.crop_area": AREA, "data.shift_pixels": 0},
            **{"training.max_steps": updates, "training.logging_steps": max(1, updates // 20)},
            **{"training.warmup_steps": max(1, updates // 15), "training.probe_steps": 0, "training.use_cpu": True},
            **{"training.save_strategy": "no", "training.guard_patience": 0, "training.disable_tqdm": True},
            **{f"training.{name}": value for name, value in settings.items()},
        }
        if "lr_scheduler_kwargs" in training:
            decay = training["lr_scheduler_kwargs"]["num_decay_steps"]
            fields["training.lr_scheduler_kwargs"] = {"num_decay_steps": round(decay * share)}
        with tempfile.TemporaryDirectory() as folder:
            how = {"recipe": recipe, "output_dir": folder, "callbacks": [clock]}
            log = data2vec.pretrain(data=str(data), **how, **fields).history
            model = AutoModelForPreTraining.from_pretrained(Path(folder) / "pretraining").eval()
        losses = [row["loss"] for row in log if "loss" in row]
        networks = {"student": our_layers(model.base_model), "teacher": our_layers(teacher_encoder(model))}
        return Trained(networks, clock, (losses[0], losses[-1]))

    return run


# Theirs


def timm_encoder(trunk: Trunk) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    size = {"embed_dim": trunk.width, "depth": trunk.depth, "num_heads": trunk.heads}
    return VisionTransformer(img_size=SIDE, patch_size=PATCH, num_classes=0, **size)


def timm_layers(encoder: Any) -> Layers:
    def layers(pixels: Tensor) -> list[Tensor]:
        how = {"intermediates_only": True, "return_prefix_tokens": True, "output_fmt": "NLC"}
        return [torch.cat((cls, patches), 1) for patches, cls in encoder.forward_intermediates(pixels, **how)]

    return layers


def stable_data2vec(trunk: Trunk, settings: dict[str, Any]) -> Any:
    encoder = timm_encoder(trunk)
    from stable_pretraining.methods.data2vec import Data2Vec

    decays = {name: value for name, value in settings.items() if name.startswith("ema_")}
    return Data2Vec(encoder, top_k_blocks=trunk.depth, image_size=SIDE, **decays)


def stable_mae(trunk: Trunk, settings: dict[str, Any]) -> Any:
    encoder, (width, depth, heads) = timm_encoder(trunk), trunk.decoder
    from stable_pretraining.methods.mae import MAE

    return MAE(encoder, decoder_embed_dim=width, decoder_depth=depth, decoder_num_heads=heads)


def lightly_mae(trunk: Trunk, settings: dict[str, Any]) -> Any:
    encoder, (width, depth, heads) = timm_encoder(trunk), trunk.decoder
    from lightly.models import utils
    from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
    from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

    class MaskedAutoencoder(nn.Module):
        """The parts of lightly, put together as its documentation does."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = MaskedVisionTransformerTIMM(encoder)
            self.narrow = nn.Linear(trunk.width, width)
            self.decoder = MaskedVisionTransformerDecoderTIMM(PATCHES, width, depth, heads)
            self.predict = nn.Linear(width, 3 * PATCH**2)

        def forward(self, pixels: Tensor) -> Tensor:
            size = (len(pixels), self.backbone.sequence_length)
            keep, masked = utils.random_token_mask(size, mask_ratio=0.75)
            seen = self.narrow(self.backbone.encode(pixels, idx_keep=keep))
            tokens = utils.set_at_index(utils.repeat_token(self.decoder.mask_token, size), keep, seen)
            predicted = self.predict(utils.get_at_index(self.decoder(tokens), masked))
            targets = utils.get_at_index(utils.patchify(pixels, PATCH), masked - 1)  # CLS is token 0
            targets = utils.normalize_mean_var(targets) if settings["normalized"] else targets
            return F.mse_loss(predicted, targets)

    return MaskedAutoencoder()


def theirs(build: Callable[[Trunk, dict[str, Any]], Any], encoders: dict[str, str]) -> Run:
    """Args: encoders: name -> the path of a timm encoder in the model."""

    def run(data: Path, trunk: Trunk, settings: dict[str, Any], updates: int) -> Trained:
        set_seed(0)
        model, clock, losses = build(trunk, settings).train(), Clock(), []
        flat = [value for value in model.parameters() if value.requires_grad and value.ndim < 2]
        weights = [value for value in model.parameters() if value.requires_grad and value.ndim >= 2]
        groups = [{"params": weights, "weight_decay": 0.05}, {"params": flat, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, settings["learning_rate"], betas=(0.9, 0.95), fused=True)
        schedule = get_cosine_schedule_with_warmup(optimizer, max(1, updates // 15), updates)
        batches = crops(images_of(data, "train")[0], settings["batch"])
        clock.tick()
        for number, pixels in enumerate(itertools.islice(batches, updates)):
            output = model(pixels)
            loss = output if isinstance(output, Tensor) else output.loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if hasattr(getattr(model, "encoder", None), "update_teacher"):
                model.encoder.update_ema_coefficient(number, updates)
                model.encoder.update_teacher()
            losses.append(loss.detach())
            clock.tick()
        few = max(1, updates // 20)
        start, end = (float(torch.stack(part).mean()) for part in (losses[:few], losses[-few:]))
        networks = {name: timm_layers(model.get_submodule(path)) for name, path in encoders.items()}
        model.eval()
        return Trained(networks, clock, (start, end))

    return run


@cache
def images_of(data: Path, split: str, most: int | None = None) -> tuple[Tensor, np.ndarray]:
    """Normalised images (n, 3, 32, 32) and labels of a split; of `most`, as many of each class."""
    rows = datasets.load_dataset(str(data), split=split)
    if most is not None and most < len(rows):
        labels = np.asarray(rows["label"][:])
        chosen, _ = train_test_split(np.arange(len(labels)), train_size=most, stratify=labels, random_state=0)
        rows = rows.select(np.sort(chosen))
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in rows["image"]]))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std, np.asarray(rows["label"][:])


def crops(images: Tensor, batch: int) -> Iterator[Tensor]:
    """Batches of random resized crops, half of them mirrored, normalised; every image once before any twice."""
    rng = torch.Generator().manual_seed(0)

    def between(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=rng) * (high - low) + low

    order: list[int] = []
    while True:
        while len(order) < batch:
            order += torch.randperm(len(images), generator=rng).tolist()
        chosen, order = order[:batch], order[batch:]
        area, aspect = between(*AREA), between(math.log(3 / 4), math.log(4 / 3)).exp()
        width, height = ((area * ratio).sqrt().clamp(max=1) for ratio in (aspect, 1 / aspect))
        left, top = (between(-1, 1) * (1 - side) for side in (width, height))
        mirror = torch.where(torch.rand(batch, generator=rng) < 0.5, -1.0, 1.0)
        none = torch.zeros(batch)
        boxes = torch.stack((width * mirror, none, left, none, height, top), 1).unflatten(1, (2, 3))
        grid = F.affine_grid(boxes, [batch, 3, SIDE, SIDE], align_corners=False)
        yield F.grid_sample(images[chosen], grid, mode="bicubic", padding_mode="reflection", align_corners=False)


MAE_RATES = ({"learning_rate": 1.5e-3, "batch": 64}, {"learning_rate": 5e-4, "batch": 64})
ARMS = {
    "data2vec2": Arm("data2vec 2.0, ours", ours(V2), ({"learning_rate": 1.5e-3}, {"learning_rate": 3e-3})),
    "data2vec1": Arm("data2vec 1, ours", ours(V1), ({"learning_rate": 1e-3}, {"learning_rate": 2e-3})),
    "stable_data2vec": Arm(
        "data2vec, stable-pretraining",
        theirs(stable_data2vec, {"student": "encoder.student", "teacher": "encoder.teacher"}),
        (
            {"learning_rate": 1.5e-3, "batch": 16, "ema_decay_start": 0.99, "ema_decay_end": 0.999},
            {"learning_rate": 1.5e-3, "batch": 16},
            {"learning_rate": 5e-4, "batch": 16},
        ),
    ),
    "stable_mae": Arm(
        "MAE, stable-pretraining",
        theirs(stable_mae, {"encoder": "encoder.vit"}),
        (*MAE_RATES, {"learning_rate": 1.5e-3, "batch": 32}),
    ),
    "lightly_mae": Arm(
        "MAE, lightly",
        theirs(lightly_mae, {"encoder": "backbone.vit"}),
        (
            *({**rate, "normalized": True} for rate in MAE_RATES),
            {"learning_rate": 1.5e-4, "batch": 64, "normalized": False},
        ),
    ),
}
CONTROLS: dict[str, tuple[str, Callable[[Trunk], dict[str, Layers]]]] = {
    "untrained": (
        "untrained encoder of data2vec 2.0",
        lambda trunk: {"encoder": our_layers(our_untrained(trunk))},
    ),
    "pixels": ("pixels", lambda trunk: {"pixels": lambda pixels: [pixels.flatten(1)[:, None]]}),
}
TITLES = {name: arm.title for name, arm in ARMS.items()} | {name: title for name, (title, _) in CONTROLS.items()}
