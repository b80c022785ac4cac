"""A step whose loss or gradient is not finite changes nothing and is counted; several in a row stop the run."""

import copy
import json
import math
import os
import subprocess

import pytest
import torch
from transformers import TrainerCallback

from data2vec.tests.pretraining.test_trainer import make_trainer, weights
from tests.code_blocks import ROOT
from tests.warm import warm_python


class Poison(TrainerCallback):
    """Makes the loss or a gradient of some steps (counted from 1) not finite."""

    def __init__(self, steps, where="loss", rank=0):
        self.steps, self.where, self.rank = steps, where, rank

    def attach(self, trainer):
        forward = trainer.model.forward

        def poisoned(*args, **kwargs):
            output = forward(*args, **kwargs)
            here = trainer.state.global_step + 1 in self.steps and trainer.args.process_index == self.rank
            if here and trainer.model.training:
                if self.where == "loss":
                    output.loss = output.loss * math.nan
                elif self.where == "everything":  # as of a batch that holds a NaN
                    for name in ("loss", "targets", "all_targets", "predictions"):
                        setattr(output, name, getattr(output, name) * math.nan)
                elif self.where == "infinite loss":  # its gradient is finite
                    output.loss = output.loss + math.inf
                else:
                    output.loss.register_hook(lambda gradient: gradient * math.inf)
            return output

        trainer.model.forward = poisoned


class States(TrainerCallback):
    """Student, teacher, moments and learning rate at the end of every step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **kwargs):
        moments = copy.deepcopy(optimizer.state_dict()["state"])
        self.seen.append((weights(model), moments, lr_scheduler.get_last_lr()[0]))


def same_state(one, other) -> bool:
    alike = [torch.equal(one[0][name], other[0][name]) for name in one[0]]
    alike += [torch.equal(one[1][i][name], other[1][i][name]) for i in one[1] for name in one[1][i]]
    return all(alike) and one[1].keys() == other[1].keys()


def run(folder, steps=(), where="loss", resume=None, **how):
    states = States()
    trainer = make_trainer(folder, callbacks=[states], **({"max_steps": 8, "logging_steps": 2} | how))
    Poison(steps, where).attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, states.seen


@pytest.mark.parametrize(("where", "accumulation"), [("loss", 1), ("infinite loss", 2), ("gradient", 2)])
def test_the_step_changes_neither_weights_nor_teacher_nor_moments(tmp_path, where, accumulation):
    how = {"gradient_accumulation_steps": accumulation, "max_grad_norm": float(accumulation - 1), "max_steps": 5}
    trainer, states = run(tmp_path / "bad", [3, 4], where, **how)
    assert same_state(states[1], states[2]) and same_state(states[1], states[3])
    assert not same_state(states[3], states[4]) and not same_state(states[0], states[1])
    _, clean = run(tmp_path / "clean", **how)
    assert [rate for *_, rate in states] == [rate for *_, rate in clean]  # the schedules go on
    assert same_state(clean[1], states[1])
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer.model).values())
    assert trainer.non_finite.count == 2 and trainer.non_finite.in_a_row == 0 and trainer.state.global_step == 5
    counted = [(log["step"], log["skipped_steps"]) for log in trainer.state.log_history if "skipped_steps" in log]
    assert counted == [(3, 1), (4, 2)]


def test_logged_losses_are_of_the_steps_that_were_made(tmp_path):
    singly, _ = run(tmp_path / "1", [4], logging_steps=1)
    losses = {log["step"]: log["loss"] for log in singly.state.log_history if "loss" in log}
    assert math.isnan(losses[4]) and all(math.isfinite(losses[step]) for step in losses if step != 4)
    by_three, _ = run(tmp_path / "3", [4], logging_steps=3)
    logged = {log["step"]: log["loss"] for log in by_three.state.log_history if "loss" in log}
    assert logged[6] == pytest.approx((losses[5] + losses[6]) / 2, rel=1e-5)


def test_a_bad_batch_in_a_step_that_is_logged(tmp_path):
    """Its health numbers are not known; the run goes on, and so does one that is continued from there."""
    trainer, _ = run(tmp_path, [4], "everything", logging_steps=2, save_steps=4)
    logged = {log["step"]: log["effective_rank"] for log in trainer.state.log_history if "effective_rank" in log}
    assert [step for step in logged if math.isnan(logged[step])] == [4] and trainer.state.global_step == 8
    again, _ = run(tmp_path, [4], "everything", logging_steps=2, save_steps=4, resume=str(tmp_path / "checkpoint-4"))
    assert again.state.global_step == 8 and not trainer.collapsed


def test_it_stops_after_several_in_a_row_and_names_the_examples(tmp_path):
    trainer, states = run(tmp_path, range(4, 99), max_nonfinite_steps=3, save_steps=1)
    assert trainer.state.global_step == 6 and len(states) == 6
    message = trainer.non_finite.explanation
    assert "3 steps in a row" in message and "row " in message and "(epoch 0, index " in message
    batches = list(trainer.data.batch_sampler)
    assert all(f"index {index})" in message for _, index in batches[5][:16])
    spread, _ = run(tmp_path / "spread", [2, 3, 5, 6], max_nonfinite_steps=3)
    assert spread.non_finite.count == 4 and spread.non_finite.explanation is None


def test_a_run_that_is_continued_knows_of_the_steps_left_out(tmp_path):
    whole, _ = run(tmp_path / "whole", [3, 4, 6], logging_steps=5, save_steps=4)
    again, _ = run(tmp_path / "whole", [3, 4, 6], logging_steps=5, save_steps=4,
                   resume=str(tmp_path / "whole" / "checkpoint-4"))  # fmt: skip
    one, other = (
        [{n: v for n, v in log.items() if "second" not in n and "runtime" not in n} for log in t.state.log_history]
        for t in (whole, again)
    )
    assert one == other and again.non_finite.count == 3
    one, other = weights(whole.model), weights(again.model)
    assert all(torch.equal(one[name], other[name]) for name in one)


PROGRAM = """
import json, sys
from data2vec.tests.pretraining.monitoring.test_non_finite import Poison, States, make_trainer, same_state, weights
states = States()
trainer = make_trainer(sys.argv[1], max_steps=5, logging_steps=1, max_nonfinite_steps=2, callbacks=[states])
Poison([2, 4, 5], rank=1).attach(trainer)
trainer.train()
facts = {
    "sum": sum(float(t.double().sum()) for t in weights(trainer.model).values()),
    "kept": same_state(states.seen[0], states.seen[1]) and same_state(states.seen[2], states.seen[4]),
    "count": trainer.non_finite.count, "why": trainer.non_finite.explanation,
}
with open(f"{sys.argv[1]}-{trainer.args.process_index}.json", "w") as file:
    json.dump(facts, file)
import torch
torch.distributed.barrier(); torch.distributed.destroy_process_group()
"""


def test_all_ranks_leave_the_same_steps_out(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"import sys; sys.path.append({str(ROOT)!r})\n{PROGRAM}")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [
        warm_python(environment),
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(program),
    ]
    command.append(str(tmp_path / "run"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = [json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0] == facts[1] and facts[0]["kept"] and facts[0]["count"] == 3
    assert "2 steps in a row" in facts[0]["why"]
