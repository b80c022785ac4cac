"""The trainer on real digits: what a user relies on while a run goes on and when it is done."""

import json
import math
import shutil

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from data2vec.modeling import Data2VecVisionConfig, Data2VecVisionForPreTraining, ObjectiveConfig
from data2vec.pretraining.modalities.build import build_data, modality_of
from data2vec.pretraining.monitoring import callbacks
from data2vec.pretraining.monitoring.callbacks import CollapseGuard, DivergenceGuard
from data2vec.pretraining.monitoring.non_finite import EXAMPLES
from data2vec.pretraining.trainer import Data2VecTrainer, PretrainingArguments


def objective(**values) -> dict:
    return {
        "masking": {"method": "beit_block", "ratio": 0.6, "min_patches": 2},
        "top_k_layers": 2,
        "target_tap": "ffn",
        "target_layer_norm": "instance",
        "loss_scale": None,
        "loss_beta": 0.0,
        "ema_decay": 0.9,
        "ema_end_decay": 0.99,
        "ema_anneal_steps": 8,
    } | values


def make_trainer(folder, *, callbacks=(), workers=0, **kwargs):
    torch.manual_seed(0)
    values = objective(**kwargs.pop("objective", {}))
    config = Data2VecVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=8, patch_size=2,
        num_channels=1, use_absolute_position_embeddings=True, hidden_dropout_prob=0.1, objective=values,
    )  # fmt: skip
    data_arguments = modality_of(config).arguments_class.from_dict({
        "sources": [{"path": "builtin:digits"}],
        "eval_sources": [{"path": "builtin:digits", "split": "validation"}],
        "crop": "shift", "shift_pixels": 1, "flip": 0.0, "color_jitter": 0.0,
    })  # fmt: skip
    arguments = {
        "output_dir": str(folder), "max_steps": 8, "logging_steps": 2, "save_steps": 4, "learning_rate": 1e-3,
        "per_device_train_batch_size": 17, "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "dataloader_num_workers": workers,
    } | kwargs  # fmt: skip
    arguments = PretrainingArguments(**arguments)
    data = build_data(
        data_arguments,
        config=config,
        objective=ObjectiveConfig.from_dict(config.objective),
        batch_size=arguments.per_device_train_batch_size,
        seed=arguments.seed,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
    )
    return Data2VecTrainer(Data2VecVisionForPreTraining(config), arguments, data, callbacks=list(callbacks))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Recorder(TrainerCallback):
    """The student after every optimizer step, and how many micro-batches there were."""

    def __init__(self):
        self.students, self.substeps = [], 0

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.students.append({n: p.detach().clone() for n, p in model.base_model.named_parameters()})

    def on_substep_end(self, args, state, control, **kwargs):
        self.substeps += 1


def test_teacher_moves_once_per_optimizer_step(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, callbacks=[recorder], gradient_accumulation_steps=3, max_steps=5)
    start = {n: p.detach().clone() for n, p in trainer.model.teacher.named_parameters()}
    trainer.train()
    assert recorder.substeps == 10 and len(recorder.students) == 5
    for name, tensor in trainer.model.teacher.named_parameters():
        expected = start[name]
        for step, student in enumerate(recorder.students, start=1):
            decay = 0.9 + 0.09 * step / 8
            expected = decay * expected + (1 - decay) * student[name]
        torch.testing.assert_close(tensor, expected, msg=name)


def test_teacher_stays_where_the_step_was_skipped(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, max_steps=2)
    before = weights(trainer.model.teacher)
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", property(lambda self: True))
    trainer.train()
    assert all(torch.equal(before[n], t) for n, t in trainer.model.teacher.state_dict().items())


def test_loss_is_a_mean_over_the_masked_positions_of_the_whole_batch(tmp_path):
    """Two micro-batches with unlike numbers of masked positions have the gradient of the one batch they make."""
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=2)
    trainer.create_optimizer()
    model = trainer.model.eval()  # no dropout
    model.train = lambda mode=True: model
    whole = next(iter(trainer.get_train_dataloader()))
    whole.pop("mask_counts", None)  # of other masks than these
    whole.pop(EXAMPLES)
    whole["masked"][:5] = torch.arange(16) < 3
    parts = [{k: v[:5] for k, v in whole.items()}, {k: v[5:] for k, v in whole.items()}]

    def gradients(batches):
        model.zero_grad()
        count = trainer.count_items(batches)
        assert count == whole["masked"].sum()
        losses = [trainer.training_step(model, dict(batch), count) for batch in batches]
        return sum(losses), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    loss, expected = gradients([whole])
    split_loss, accumulated = gradients(parts)
    torch.testing.assert_close(split_loss, loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(accumulated[name], gradient, msg=name, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 2), (2, 1)])
def test_resume_is_exact(tmp_path, workers, accumulation):
    options = {"workers": workers, "gradient_accumulation_steps": accumulation, "max_steps": 12, "save_steps": 6}
    straight = make_trainer(tmp_path / "straight", **options)
    straight.train()
    resumed = make_trainer(tmp_path / "resumed", **options)
    shutil.copytree(tmp_path / "straight" / "checkpoint-6", tmp_path / "resumed" / "checkpoint-6")
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-6"))
    a, b = straight.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    health = ("loss", "target_std", "position_std", "effective_rank", "grad_norm", "ema_decay")
    logged = [
        [{k: log[k] for k in health} for log in t.state.log_history if "loss" in log] for t in (straight, resumed)
    ]
    assert logged[0] == logged[1] and len(logged[0]) == 7


def test_masks_of_eval_do_not_change(tmp_path):
    trainer = make_trainer(tmp_path)
    first, second = trainer.evaluate()["eval_loss"], trainer.evaluate()["eval_loss"]
    assert first == second > 0


def test_weight_decay_spares_what_it_should(tmp_path):
    trainer = make_trainer(tmp_path)
    names = set(trainer.get_decay_parameter_names(trainer.model))
    shapes = {n: p.ndim for n, p in trainer.model.named_parameters()}
    assert "data2vec_vision.encoder.layer.0.intermediate.dense.weight" in names
    assert "head.0.weight" in names
    assert all(shapes[name] > 1 for name in names)
    assert not any(word in name for name in names for word in ("mask_token", "cls_token", "position", "teacher"))
    trainer.args.decay_everything = True
    everything = set(trainer.get_decay_parameter_names(trainer.model))
    assert everything == {n for n, p in trainer.model.named_parameters() if p.requires_grad}


def test_logs_hold_what_a_run_is_judged_by(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    logs = trainer.state.log_history
    assert [log["step"] for log in logs if "loss" in log] == [1, 2, 4, 6, 8]
    log = logs[1]  # the first holds no speed: that counts from the first micro-batch on
    expected = {
        "loss", "grad_norm", "learning_rate", "ema_decay", "target_std", "prediction_std", "position_std",
        "effective_rank", "prediction_rank", "embedding_std", "embedding_position_std", "embedding_rank",
        "embedding_share",
        "masked_fraction", "samples_per_second", "tokens_per_second",
    }  # fmt: skip
    assert expected <= set(log) and all(math.isfinite(log[name]) for name in expected)
    assert log["masked_fraction"] == pytest.approx(9 / 16)
    assert log["tokens_per_second"] == pytest.approx(16 * log["samples_per_second"])
    assert log["ema_decay"] == pytest.approx(0.9 + 0.09 * 2 / 8)
    assert 1 <= log["effective_rank"] <= 24


def test_finished_run_is_a_plain_encoder_with_its_pretraining_state_beside_it(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_model()
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    student = trainer.model.base_model.state_dict()
    assert all(torch.equal(student[n], t) for n, t in encoder.state_dict().items())
    for folder in ({"subfolder": "pretraining"}, {}):
        path = tmp_path if folder else tmp_path / "checkpoint-8"
        whole = AutoModelForPreTraining.from_pretrained(path, **folder).state_dict()
        assert all(torch.equal(whole[n], t) for n, t in trainer.model.state_dict().items())
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["architectures"] == ["Data2VecVisionModel"] and stored["objective"] == trainer.model.config.objective


def test_tri_stage_schedule(tmp_path):
    shares = {"warmup": 0.25, "hold": 0.5, "decay": 0.25}
    trainer = make_trainer(
        tmp_path, lr_scheduler_type="tri_stage", lr_scheduler_kwargs=shares, max_steps=8, logging_steps=1
    )
    trainer.train()
    rates = [log["learning_rate"] / 1e-3 for log in trainer.state.log_history if "loss" in log]
    assert rates == pytest.approx([0.01, 0.505, 1, 1, 1, 1, 1, 0.1])


class TestCollapse:
    def test_a_collapsing_run_stops_and_keeps_a_healthy_checkpoint(self, tmp_path):
        """A teacher that is the student itself, and a huge learning rate."""
        collapse = {"ema_decay": 0.0, "ema_end_decay": 0.0, "ema_anneal_steps": 0, "target_layer_norm": "layer"}
        trainer = make_trainer(
            tmp_path, objective=collapse, learning_rate=0.03, max_steps=400, logging_steps=5, save_steps=5,
            save_total_limit=2, guard_start_step=1, guard_patience=2,
        )  # fmt: skip
        trainer.train()
        assert trainer.state.global_step < 400
        text = trainer.collapsed
        assert "has collapsed" in text and "is below" in text and "learning_rate" in text and "ema_decay" in text
        newest = max(int(p.name.split("-")[1]) for p in tmp_path.glob("checkpoint-*"))
        assert newest < trainer.guards[""].unhealthy_since
        state = json.loads((tmp_path / f"checkpoint-{newest}" / "trainer_state.json").read_text())
        assert not trainer.guards[""].findings(state["log_history"][-1])

    def test_targets_that_depend_on_the_position_only(self):
        """The collapse that loss and ordinary spread do not show."""
        guard = CollapseGuard()
        healthy = {"target_std": 0.75, "prediction_std": 0.75, "position_std": 0.3}
        assert not guard.findings(healthy)
        found = guard.findings(healthy | {"position_std": 0.032})
        assert len(found) == 1 and "position_std" in found[0]

    @pytest.mark.parametrize("how", ["lower_rate", "restart_from_checkpoint"])
    def test_a_run_that_loses_rank_is_rescued_and_continued_as_if_never_stopped(self, tmp_path, monkeypatch, how):
        """A rate a hundred times too high; the rank of the targets halves within 30 updates."""
        monkeypatch.setitem(callbacks.RESCUED_SHARES, "effective_rank", 0.5)
        settings = {
            "learning_rate": 0.1, "warmup_steps": 80, "max_steps": 40, "logging_steps": 5, "save_steps": 10,
            "guard_patience": 2, "on_collapse": how,
        }  # fmt: skip
        trainer = make_trainer(tmp_path, **settings)
        trainer.train()
        log = trainer.state.log_history
        assert trainer.state.global_step == 40 and trainer.collapsed is None
        (rescued,) = [row["step"] for row in log if "rescues" in row]
        rates = {row["step"]: row["learning_rate"] for row in log if "loss" in row}
        ranks = {row["step"]: row["effective_rank"] for row in log if "loss" in row}
        assert min(rank for step, rank in ranks.items() if step <= rescued) < ranks[1] * (
            0.5 if how == "lower_rate" else 1
        )
        for step, rate in rates.items():  # 0.1 over 80 updates, and a tenth of it behind the rescue
            assert rate == pytest.approx((step - 1) / 800 * (0.1 if step > rescued else 1))
        if how == "restart_from_checkpoint":
            assert min(ranks.values()) > 0.5 * ranks[1]  # it was before the collapse, and none came
        newest = max((p for p in tmp_path.glob("checkpoint-*")), key=lambda p: int(p.name.split("-")[1]))
        if newest.name != "checkpoint-40":  # what is unhealthy is not saved
            assert how == "lower_rate" and int(newest.name.split("-")[1]) < rescued
        before = tmp_path / ("checkpoint-30" if how == "restart_from_checkpoint" else newest.name)
        again = make_trainer(tmp_path, **settings)
        again.train(resume_from_checkpoint=str(before))
        one, other = weights(trainer.model), weights(again.model)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert [row["step"] for row in again.state.log_history if "rescues" in row] == [rescued]

    def test_a_restart_goes_back_to_before_the_fall(self, tmp_path, monkeypatch):
        """Here to the first update, as nothing else was saved; what is saved later is of the new course."""
        monkeypatch.setitem(callbacks.RESCUED_SHARES, "effective_rank", 0.5)
        settings = {"learning_rate": 0.1, "warmup_steps": 80, "max_steps": 40, "logging_steps": 5, "save_steps": 1000}
        trainer = make_trainer(tmp_path, **settings, guard_patience=2, on_collapse="restart_from_checkpoint")
        trainer.train()
        log = trainer.state.log_history
        assert [row["step"] for row in log if "rescues" in row] == [1] and trainer.collapsed is None
        assert min(row["effective_rank"] for row in log if "loss" in row) > 0.5 * log[0]["effective_rank"]

    def test_a_rescue_that_cannot_be_stops_the_run(self, tmp_path):
        """No checkpoint; or as many rescues as there may be."""
        trainer = make_trainer(tmp_path, guard_patience=1, on_collapse="restart_from_checkpoint")
        guard, control, healthy = trainer.guards[""], TrainerControl(), {"target_std": 0.9, "effective_rank": 40.0}
        log = [healthy, healthy | {"effective_rank": 9.0}]
        state = TrainerState(global_step=7, log_history=log)
        guard.on_log(trainer.args, state, control, log[-1])
        assert control.should_training_stop and "no checkpoint to restart from" in guard.explanation
        trainer.rescue.count, guard.explanation = 2, None
        guard.on_log(trainer.args, state, control, log[-1])
        assert "2 rescues did not help" in guard.explanation and not trainer.rescue.restarting

    def test_a_rank_that_is_lost_is_said_once_and_stops_nothing(self, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr("data2vec.pretraining.monitoring.callbacks.logger.warning", said.append)
        guard, state, control = CollapseGuard(start_step=1, patience=2), TrainerState(), TrainerControl()
        healthy = {"target_std": 0.9, "prediction_std": 0.6, "position_std": 0.7}
        for step, rank in enumerate([40.0, 19.0, 21.0, 19.0, 18.0, 10.0], start=1):
            logs = healthy | {"effective_rank": rank}
            state.global_step = step
            state.log_history.append(logs | {"step": step})
            guard.on_log(TrainingArguments(tmp_path), state, control, logs)
            assert bool(said) == (step >= 5)  # 19 and 18 are the first two in a row below 20
        assert len(said) == 1 and "effective_rank = 18, at first 40" in said[0] and "learning_rate" in said[0]
        assert not control.should_training_stop and guard.explanation is None

    def test_utterances_alone_are_judged_by_theirs(self):
        """Frames that are not learned keep the spread of their normalised targets."""
        logs = {"target_std": 0.9, "prediction_std": 0.3, "position_std": 0.8}
        logs |= {"utterance_target_std": 0.001, "utterance_prediction_std": 0.05}
        assert not CollapseGuard().findings(logs)
        assert CollapseGuard(utterance_only=True).findings(logs) == ["utterance_target_std = 0.0010 is below 0.01"]
        assert not CollapseGuard(utterance_only=True).findings(logs | {"utterance_target_std": 0.04})

    def test_a_target_of_samples_that_is_one_for_all_is_said_once(self, tmp_path, monkeypatch):
        said = []
        monkeypatch.setattr("data2vec.pretraining.monitoring.callbacks.logger.warning", said.append)
        guard, state, control = CollapseGuard(start_step=1, patience=2), TrainerState(), TrainerControl()
        healthy = {"target_std": 0.9, "prediction_std": 0.6, "position_std": 0.7}
        for step, spread in enumerate([0.001, 0.03, 0.001, 0.001, 0.001], start=1):
            state.global_step = step
            guard.on_log(TrainingArguments(tmp_path), state, control, healthy | {"utterance_target_std": spread})
            assert bool(said) == (step >= 4)
        assert len(said) == 1 and "set target_norm: layer" in said[0]
        assert not control.should_training_stop and guard.explanation is None

    def test_a_number_that_is_not_there_is_no_collapse(self):
        assert not CollapseGuard().findings({"target_std": 0.7, "prediction_std": 0.2, "position_std": math.nan})


class TestDivergence:
    LOSSES = {
        "falls": ([0.6, 0.5, 0.3, 0.2, 0.1], None),
        "rises with the targets' spread": ([0.1, 0.3, 0.9, 1.4, 1.2, 0.8], None),
        "starts at CTC's hundreds": ([812.0, 2900.0, 340.0, 41.0, 2.9], None),
        "spikes and comes back": ([0.6, 900.0, 4000.0, 0.7, 0.5], None),
        "starts at nothing": ([1e-5, 0.4, 0.7, 0.6, 0.6], None),
        "is not known at times": ([0.6, math.nan, 0.5, math.nan, 0.4], None),
        "explodes": ([0.6, 0.5, 3e4, 1e9, 8.5e21, 1e22], 5),
        "explodes at last": ([0.6, 0.5, 0.4, 0.4, 7e3], 5),
        "stays up, with gaps": ([0.6, 1e3, math.nan, 1e3, 1e3, 2.0], 5),
        "is logged twice": ([0.119, 8.5e21], 2),
    }

    @pytest.mark.parametrize("case", LOSSES)
    def test_what_is_called_diverged(self, tmp_path, case):
        losses, stops = self.LOSSES[case]
        guard, state, control = DivergenceGuard(), TrainerState(max_steps=len(losses)), TrainerControl()
        for step, loss in enumerate(losses, start=1):
            state.global_step = step
            state.log_history.append({"loss": loss, "step": step})
            control.should_save = True
            guard.on_log(TrainingArguments(tmp_path), state, control, {"loss": loss})
            if control.should_training_stop:
                break
        assert (step if control.should_training_stop else None) == stops
        assert control.should_save == (stops is None)
        assert guard.explanation is None or "Lower learning_rate" in guard.explanation

    def test_a_run_with_an_absurd_learning_rate(self, tmp_path):
        trainer = make_trainer(tmp_path, learning_rate=1.0, max_steps=30, logging_steps=3, save_steps=3)
        trainer.train()
        assert trainer.state.global_step < 30 and "has exploded" in trainer.diverged
        for checkpoint in tmp_path.glob("checkpoint-*"):  # if any, from before
            state = json.loads((checkpoint / "trainer_state.json").read_text())
            assert all(log["loss"] < 10 for log in state["log_history"] if "loss" in log)
