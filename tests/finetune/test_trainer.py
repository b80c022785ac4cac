"""What the trainer adds: an encoder frozen at first, an average of the weights, and keyed batches."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from data2vec.finetune.arguments import resolve
from data2vec.finetune.examples import Examples
from data2vec.finetune.image.task import ImageClassification
from data2vec.finetune.task import TaskData
from data2vec.finetune.trainer import FineTuneTrainer
from data2vec.pretraining.modalities.image import ImageCollator
from tests.finetune.encoders import encoder_folder, processor
from tests.warm import warm_python


ROOT = Path(__file__).parents[2]
CLASSES = ("a", "b", "c")


def read(row, rng):
    return {
        "pixel_values": torch.from_numpy(np.random.default_rng(row).standard_normal((3, 16, 16), dtype=np.float32))
    }


def data(rows=22) -> TaskData:
    train = Examples(range(rows), read, labels=np.arange(rows) % 3, name="train", seed=0)
    return TaskData(train, {}, ImageCollator(None, (4, 4), 0), processor("vision"), label_names=CLASSES)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return encoder_folder(tmp_path_factory.mktemp("encoder"), "vision", "v1")


class Record(TrainerCallback):
    """Copies of the weights after every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: value.detach().clone() for name, value in model.named_parameters()})


def trainer(encoder, folder, **training: Any) -> tuple[FineTuneTrainer, Record]:
    recipe = {
        "model": {"model_name_or_path": str(encoder), "drop_path_rate": 0.0},
        "data": {"train": {"path": "unused"}},
        "training": {
            "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 5, "learning_rate": 1e-2,
            "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_grad_norm": 0.0,
            "lr_scheduler_type": "constant",
        } | training,
    }  # fmt: skip
    run = resolve(recipe, ImageClassification)
    task = ImageClassification(run)
    torch.manual_seed(0)
    model = task.build_model(data())
    record = Record()
    made = FineTuneTrainer(model, run.training, task, data())
    made.add_callback(record)
    return made, record


def test_the_encoder_is_frozen_at_first_and_then_learns(encoder, tmp_path):
    made, record = trainer(encoder, tmp_path, freeze_encoder_steps=2)
    before = {name: value.detach().clone() for name, value in made.model.named_parameters()}
    made.train()
    inside = "data2vec_vision.encoder.layer.0.intermediate.dense.weight"
    first, second, third, _ = record.steps
    assert torch.equal(first[inside], before[inside]) and torch.equal(second[inside], before[inside])
    assert not torch.equal(third[inside], before[inside])
    assert not torch.equal(first["classifier.weight"], before["classifier.weight"])


def test_the_average_is_the_one_of_a_loop_and_is_what_is_evaluated_and_saved(encoder, tmp_path):
    made, record = trainer(encoder, tmp_path, weights_ema_decay=0.8)
    made.train()
    name = "data2vec_vision.encoder.layer.1.output.dense.weight"
    expected = record.steps[0][name].clone()
    for step in record.steps[1:]:
        expected = 0.8 * expected + 0.2 * step[name]
    assert made.average is not None
    torch.testing.assert_close(dict(made.average.averaged.module.named_parameters())[name], expected)
    seen = {}

    def logits_with(model, inputs):
        seen.setdefault("weight", dict(model.named_parameters())[name].detach().clone())
        return ImageClassification.loss(made.task, model, inputs)

    made.task.loss = logits_with  # type: ignore[method-assign]
    made.predict(made.data.train)
    torch.testing.assert_close(seen["weight"], expected)
    assert torch.equal(dict(made.model.named_parameters())[name], record.steps[-1][name])  # and given back
    made.save_model()
    saved = type(made.model).from_pretrained(tmp_path)
    torch.testing.assert_close(dict(saved.named_parameters())[name], expected)


def test_accumulated_batches_are_one_large_batch(encoder, tmp_path):
    """One step on all 22 examples, by stochastic gradient descent, however they are cut."""
    plain = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0}
    whole, one = trainer(encoder, tmp_path / "one", per_device_train_batch_size=22, **plain)
    whole.train()
    halves, two = trainer(
        encoder, tmp_path / "two", per_device_train_batch_size=11, gradient_accumulation_steps=2, **plain
    )
    halves.train()
    for name, value in one.steps[0].items():
        torch.testing.assert_close(two.steps[0][name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_batches_are_keyed_by_epoch_and_index(encoder, tmp_path):
    made, _ = trainer(encoder, tmp_path, num_train_epochs=2, max_steps=-1)
    seen: list[tuple[int, int]] = []
    collate = made.data.collator

    def watching(examples):
        seen.extend((example["epoch"], example["index"]) for example in examples)
        return collate(examples)

    made.data.train_collator = watching
    made.train()
    assert sorted(seen) == [(epoch, index) for epoch in (0, 1) for index in range(22)]
    assert [index for epoch, index in seen if epoch == 0] != [index for epoch, index in seen if epoch == 1]


PROGRAM = """
import torch
from tests.finetune.test_trainer import trainer
how = {"freeze_encoder_steps": 2, "activation_checkpointing": True, "save_strategy": "no"}
made, record = trainer(sys.argv[1], sys.argv[2], **how)
made.train()
assert made.state.global_step == 4 and made.args.world_size == 2
(inside,) = (name for name in record.steps[0] if name.endswith("encoder.layer.0.intermediate.dense.weight"))
moved = [not torch.equal(a[inside], b[inside]) for a, b in zip(record.steps, record.steps[1:])]
assert moved == [False, True, True], moved
torch.distributed.barrier(); torch.distributed.destroy_process_group()
"""


@pytest.mark.slow  # quick: two processes in ../pretraining/test_run.py, freezing above
def test_two_processes_freeze_an_encoder_whose_activations_are_recomputed(encoder, tmp_path):
    """DDP must look for parameters without a gradient, which `Trainer` forgoes when activations are recomputed."""
    (tmp_path / "program.py").write_text(f"import sys; sys.path.append({str(ROOT)!r})\n{PROGRAM}")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [warm_python(environment), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(tmp_path / "program.py"), str(encoder), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("layerdrop", "how", "searched"),
    [
        (0.0, {}, True),
        (0.3, {"activation_checkpointing": True}, True),
        (0.0, {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}, False),
    ],
)
def test_when_ddp_looks_for_parameters_without_a_gradient(encoder, tmp_path, layerdrop, how, searched):
    made, _ = trainer(encoder, tmp_path, **how)
    made.model.config.layerdrop = layerdrop
    made.args.ddp_find_unused_parameters = None
    FineTuneTrainer(made.model, made.args, made.task, data())
    assert made.args.ddp_find_unused_parameters == searched


def test_a_step_that_is_not_finite_is_left_out_here_too(encoder, tmp_path):
    made, record = trainer(encoder, tmp_path, weights_ema_decay=0.5)
    loss = made.task.loss

    def poisoned(model, inputs):
        value, outputs = loss(model, inputs)
        return value * (float("nan") if made.state.global_step == 1 else 1.0), outputs

    made.task.loss = poisoned  # type: ignore[method-assign]
    made.train()
    first, second, third, _ = record.steps
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(second["classifier.weight"], third["classifier.weight"])
    assert made.non_finite.count == 1 and made.diverged is None
    assert [log["step"] for log in made.state.log_history if "loss" in log] == [1, 4]
