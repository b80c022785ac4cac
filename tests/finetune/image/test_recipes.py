"""The vision recipes: each loads, holds the published numbers, and makes a step with a model of small size."""

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data2vec.finetune.arguments import parse
from data2vec.finetune.help_text import RECIPES
from data2vec.finetune.image.task import ImageClassification
from data2vec.finetune.optim import layer_numbers
from data2vec.finetune.run_image_classification import main
from data2vec.finetune.trainer import FineTuneTrainer
from tests.finetune.encoders import encoder_folder


PUBLISHED = ("imagenet_base", "imagenet_large", "imagenet_base_v2", "imagenet_large_v2")
SMALL = ("cifar10_small", "fashion_mnist_small")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 9), ("validation", 5), ("test", 5)):
        for kind in ("cat", "dog"):
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, size=(24, 31, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{i}.jpg")
    return folder


def small(name, folder, images, tmp_path_factory):
    """The recipe's command line, with a small encoder and a few images."""
    family = "v2" if name.endswith("_v2") else "v1"
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    encoder = encoder_folder(tmp_path_factory.mktemp("encoder"), "vision", family)
    arguments = [f"{name}.yaml", "--model_name_or_path", str(encoder), "--output_dir", str(folder)]
    for split in ("train", "validation", "test"):
        if recipe["data"].get(split):
            arguments += [f"--data.{split}", f"{{path: {images}, split: {split}}}"]
    arguments += ["--max_steps", "1", "--bf16", "false", "--use_cpu", "true", "--report_to", "none"]
    arguments += ["--per_device_train_batch_size", "7", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]
    if recipe["data"].get("labels_per_class"):
        arguments += ["--labels_per_class", "3"]
    return arguments


@pytest.mark.parametrize("name", PUBLISHED + SMALL)
def test_recipe_makes_a_step(name, tmp_path, images, tmp_path_factory):
    assert main(small(name, tmp_path / "run", images, tmp_path_factory)) == 0
    assert (tmp_path / "run" / "results.json").is_file() and (tmp_path / "run" / "predictions").is_dir()


# name -> epochs or updates, devices, batch, rate, layer decay, drop path, weight decay, warm-up, beta2, clip, top-1
NUMBERS: dict[str, Any] = {
    "imagenet_base": ("epochs", 100, 8, 1024, 4e-3, 0.65, 0.2, 0.0, 0.1, 0.999, 0.0, "84.2"),
    "imagenet_large": ("epochs", 50, 16, 1024, 5e-3, 0.65, 0.25, 0.05, 0.1, 0.999, 0.0, "86.6"),
    "imagenet_base_v2": ("updates", 250200, 16, 512, 1e-3, 0.65, 0.1, 0.05, 16000, 0.95, 0.0, "84.5"),
    "imagenet_large_v2": ("updates", 125200, 16, 512, 5e-4, 0.75, 0.2, 0.05, 16000, 0.95, 4.0, "86.8"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name, tmp_path, images, tmp_path_factory):
    text = (RECIPES / f"{name}.yaml").read_text()
    unit, length, devices, batch, rate, decay, drop_path, weight_decay, warmup, beta2, clip, top1 = NUMBERS[name]
    recipe = yaml.safe_load(text)
    run = parse(small(name, tmp_path, images, tmp_path_factory), ImageClassification)
    training, task = run.training, run.task
    assert (training.num_train_epochs if unit == "epochs" else recipe["training"]["max_steps"]) == length
    assert recipe["training"]["per_device_train_batch_size"] * devices == batch
    assert f"# Hardware   {devices} GPUs" in text and f"top-1 {top1} (published" in text
    assert (training.learning_rate, training.layer_decay, training.weight_decay) == (rate, decay, weight_decay)
    assert (training.warmup_steps, training.adam_beta2, training.max_grad_norm) == (warmup, beta2, clip)
    assert run.config.drop_path_rate == drop_path
    mixup, mixed = (0.7, 0.9) if name.endswith("_v2") else (0.8, 1.0)
    assert (task.mixup, task.cutmix, task.mix_probability, task.label_smoothing) == (mixup, 1.0, mixed, 0.1)
    assert (task.rand_augment_operations, task.rand_augment_magnitude, task.erasing) == (2, 9, 0.25)
    assert task.pooling == "mean" and run.data.center_crop == 0.875


@pytest.mark.parametrize("name", PUBLISHED + SMALL)
def test_recipe_opens_with_what_a_reader_needs(name):
    opening = (RECIPES / f"{name}.yaml").read_text().split("\n\nmodel:")[0]
    assert f"accelerate launch finetune/run_image_classification.py {name}.yaml" in opening
    for word in ("Hardware", "Duration", "Expected"):
        assert word in opening


@pytest.mark.parametrize("name", ["imagenet_base", "imagenet_base_v2"])
def test_depth_is_stochastic_and_rates_are_the_recipes(name, tmp_path, images, tmp_path_factory):
    """drop_path_rate reaches the blocks of either family, growing from 0; and the optimizer has the recipe's rates."""
    run = parse(small(name, tmp_path, images, tmp_path_factory), ImageClassification)
    task = ImageClassification(run)
    data = task.build_data()
    model = task.build_model(data)
    rates = [
        getattr(module, "drop_path_rate", None) or getattr(getattr(module, "drop_path", None), "drop_prob", 0.0)
        for block, module in model.base_model.encoder.named_modules()
        if type(module).__name__ in ("Data2VecVisionLayer", "Data2Vec2Block")
    ]
    np.testing.assert_allclose(rates, np.linspace(0, run.config.drop_path_rate, len(rates)))
    model.config.drop_path_rate, pixels = run.config.drop_path_rate, torch.randn(64, 3, 16, 16)
    model.train()
    assert not torch.allclose(model(pixels).logits, model(pixels).logits)  # nothing else is random: no dropout
    model.eval()
    assert torch.allclose(model(pixels).logits, model(pixels).logits)

    optimizer = FineTuneTrainer(model, run.training, task, data).create_optimizer()
    used = {round(group["lr"] / run.training.learning_rate, 9) for group in optimizer.param_groups}
    last = max(layer_numbers(model).values())
    lowest = 1 if name.endswith("_v2") else 0  # the released 2.0 code leaves the embeddings at the full rate
    assert used == {round(0.65 ** (last - layer), 9) for layer in range(lowest, last + 1)}
