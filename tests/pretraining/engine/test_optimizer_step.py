"""The fused step does what the plain one does, waits for nobody, and leaves out what it should by itself."""

import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from data2vec.modeling.ema import ema_update
from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.data.loader import make_loader
from data2vec.pretraining.modalities.build import build_data
from data2vec.pretraining.trainer import Data2VecTrainer, PretrainingArguments
from data2vec.tests.pretraining.monitoring.test_non_finite import Poison, States, run, same_state
from data2vec.tests.pretraining.test_trainer import make_trainer, weights
from data2vec.tests.pretraining.tiny_runs import MODELS, recipe


def clipped(trainer) -> list[bool]:
    return [log["grad_norm"] > trainer.args.max_grad_norm for log in trainer.state.log_history if "grad_norm" in log]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_fused_step_is_the_plain_one(tmp_path, accumulation):
    """Clipping inside the step against `clip_grad_norm_`, then torch's loop over parameters, then the teacher."""
    how = {"max_grad_norm": 0.4, "logging_steps": 1, "gradient_accumulation_steps": accumulation, "weight_decay": 0.1}
    trainers = []
    for optim in ("adamw_torch_fused", "adamw_torch"):
        trainers.append(make_trainer(tmp_path / optim, optim=optim, max_steps=5, save_strategy="no", **how))
        trainers[-1].train()
    fused, plain = trainers
    assert fused.step_is_fused() and not plain.step_is_fused()
    assert len(set(clipped(fused))) == 2  # some steps were clipped, some not
    one, other = weights(fused.model), weights(plain.model)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], msg=name, rtol=1e-5, atol=1e-7)
    for first, second in zip(fused.state.log_history, plain.state.log_history, strict=True):
        for name in {"loss", "grad_norm", "learning_rate"} & first.keys():
            assert first[name] == pytest.approx(second[name], rel=1e-5)


def test_a_plain_optimizer_leaves_the_step_out_too(tmp_path):
    trainer, states = run(tmp_path, [3], "gradient", optim="adamw_torch", max_steps=4)
    assert same_state(states[1], states[2]) and not same_state(states[2], states[3])
    assert trainer.non_finite.count == 1


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_the_device_leaves_a_step_out_before_the_host_knows(tmp_path, where):
    """As on an accelerator: weights, teacher and moments are those of a host that waits, and the news come later."""
    at_once, expected = run(tmp_path / "at once", [3, 5, 6, 7], where, max_grad_norm=1.0, save_steps=6)
    states = States()
    trainer = make_trainer(tmp_path / "late", callbacks=[states], max_grad_norm=1.0, save_steps=6)
    Poison([3, 5, 6, 7], where).attach(trainer)
    trainer.non_finite.deferred = True
    trainer.train()
    assert all(same_state(*pair) for pair in zip(states.seen, expected, strict=True))
    assert trainer.non_finite.count == 4 and trainer.non_finite.in_a_row == 0
    steps = [(log["step"], log["skipped_steps"]) for log in trainer.state.log_history if "skipped_steps" in log]
    assert steps == [(4, 1), (6, 3), (8, 4)]  # a log, or a checkpoint, waits for its own step's verdict
    losses = [
        [log["loss"] for log in t.state.log_history if "loss" in log and log["loss"] == log["loss"]]
        for t in (at_once, trainer)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_run_that_stops_itself_names_the_examples_of_the_bad_batch_late_as_well(tmp_path):
    trainer = make_trainer(tmp_path, logging_steps=50, max_nonfinite_steps=2)
    Poison(range(4, 99)).attach(trainer)
    trainer.non_finite.deferred = True
    trainer.train()
    assert trainer.state.global_step == 6  # two bad steps, 4 and 5, and the one in which the second was read
    fifth = list(trainer.data.batch_sampler)[4]
    message = trainer.non_finite.explanation
    assert "2 steps in a row" in message and all(f"index {index})" in message for _, index in fifth[:16])


@pytest.mark.parametrize("made", [0.0, 1.0])
def test_the_teacher_moves_only_with_a_step_that_was_made(made):
    torch.manual_seed(0)
    student, teacher, other = (torch.nn.Linear(5, 3) for _ in range(3))
    other.load_state_dict(teacher.state_dict())
    start = weights(teacher)
    ema_update(teacher, student, 0.999, made=torch.tensor(made))
    ema_update(other, student, 0.999)
    expected = weights(other) if made else start
    assert all(torch.equal(expected[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("system", MODELS)
def test_without_layerdrop_every_weight_has_a_gradient(tmp_path, system):
    """What lets DDP do without its search for unused parameters."""
    fields = recipe(system, tmp_path, tmp_path / "run", use_cpu=True)
    fields["model"].pop("layerdrop", None)
    of_speech = system.split("-")[0] in ("audio", "emotion2vec", "av")
    run = resolve(fields | {"model": fields["model"] | ({"layerdrop": 0.0} if of_speech else {})})
    torch.manual_seed(0)
    model = run.model_class(run.config)
    inputs = {
        "vision": {"pixel_values": torch.randn(3, 1, 8, 8)},
        "text": {"input_ids": torch.randint(5, 261, (3, 24))},
        "audio": {"input_values": torch.randn(3, 4800)},
        "eat": {"input_values": torch.randn(3, 20, 8)},
        "points": {"point_values": torch.randn(3, 24, 3)},
        "av": {"input_features": torch.randn(3, 8, 20), "pixel_values": torch.randn(3, 8, 1, 16, 16)},
        "figures": {"pixel_values": torch.randn(3, 8, 3, 16, 16), "keypoint_values": torch.randn(3, 8, 1, 15, 2)},
        "emotion2vec": {"input_values": torch.randn(3, 4800)},
    }
    model(**inputs[system.split("-")[0]]).loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


# ---- host and device ----


class Waits(TorchDispatchMode):
    """Counts where the host reads a tensor, by function and operation; on a GPU it would wait for it there."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        if name in self.READS or by_mask:
            self.found[self.who(), "boolean index" if by_mask else name] += 1
        return function(*args, **(kwargs or {}))

    @staticmethod
    def who() -> str:
        root = Path(__file__).parents[3]
        ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(root)]
        ours = [f for f in ours if Path(f.filename).relative_to(root).parts[0] in ("modeling", "pretraining")]
        return f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "library"


class PerStep(TrainerCallback):
    def __init__(self, waits):
        self.waits, self.steps = waits, []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(dict(self.waits.found))
        self.waits.found.clear()


def test_a_step_that_is_not_logged_reads_nothing_from_the_device(tmp_path, monkeypatch):
    """What remains: logs and checkpoints, and what goes through `AsyncScalar`, which waits for an event long past."""
    waits = Waits()
    steps = PerStep(waits)
    trainer = make_trainer(
        tmp_path, workers=1, callbacks=[steps], max_steps=6, logging_steps=4, max_grad_norm=1.0, save_strategy="no"
    )
    monkeypatch.setattr(type(trainer.args), "world_size", property(lambda self: 2))  # ranks exchange their votes
    trainer.non_finite.deferred = True
    with waits:
        trainer.train()
    assert len(steps.steps) == 6 and any(steps.steps)  # logs do read
    for step in (3, 6):  # the logs of 1 and 4 are read behind the end of these
        assert not steps.steps[step - 1], (step, steps.steps[step - 1])


# ---- batches ----


def test_batches_go_to_a_gpu_beside_its_work(tmp_path, monkeypatch):
    args = PretrainingArguments(output_dir=str(tmp_path), dataloader_num_workers=2)
    pageable = PretrainingArguments(output_dir=str(tmp_path), dataloader_pin_memory=False)
    assert args.accelerator_config.non_blocking and args.dataloader_pin_memory
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    loader = make_loader([1, 2], args)
    assert loader.pin_memory and loader.prefetch_factor == 2
    assert not pageable.accelerator_config.non_blocking and not make_loader([1, 2], pageable).pin_memory


@pytest.mark.slow  # a minute of compilation each
@pytest.mark.parametrize("system", ["vision-1", "vision-2"])
def test_torch_compile_of_the_trainer_trains_to_the_same_losses(tmp_path, system):
    trainers = []
    for compiled in (False, True):
        fields = recipe(
            system, tmp_path, tmp_path / str(compiled), torch_compile=compiled, logging_steps=1, save_strategy="no"
        )
        no_dropout = {
            "vision-1": {"drop_path_rate": 0.0},
            "vision-2": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
        }
        fields["model"] |= no_dropout[system]
        if system == "vision-2":
            fields["objective"] |= {
                "mask_noise_std": 0.0,
                "decoder": fields["objective"]["decoder"] | {"input_dropout": 0.0},
            }
        run = resolve(fields)
        data = build_data(run.data, config=run.config, objective=run.objective, batch_size=4, seed=1)
        torch.manual_seed(0)
        trainers.append(Data2VecTrainer(run.model_class(run.config), run.training, data))
        trainers[-1].train()
    losses = [[log["loss"] for log in t.state.log_history if "loss" in log] for t in trainers]
    assert len(losses[0]) == 8 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert "Optimized" in type(trainers[1].model_wrapped).__name__
    assert trainers[0].model.state_dict().keys() == trainers[1].model.state_dict().keys()
