"""What the trainers use of `transformers` and accelerate that is private: each fails here by name when it changes."""

import hashlib
import inspect

import pytest
from accelerate.state import AcceleratorState, PartialState
from transformers import Trainer
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from data2vec.finetune.trainer import FineTuneTrainer
from data2vec.pretraining.trainer import Data2VecTrainer


# a method that is replaced: its parameters, who calls it, and the digest of what our own does instead
REPLACED = {
    "_run_epoch": (
        "self model epoch train_dataloader steps_in_epoch num_update_steps_per_epoch trial ignore_keys_for_eval "
        "start_time resume_from_checkpoint epochs_trained steps_trained_in_current_epoch",
        "_inner_training_loop",
        "31aff00f34c3",
    ),
    "_save_checkpoint": ("self model trial", "_maybe_log_save_evaluate", "a9111e30faa9"),
}
# a method that is called: its parameters
CALLED = {
    "_maybe_log_save_evaluate": (
        "self tr_loss grad_norm model trial epoch ignore_keys_for_eval start_time learning_rate"
    ),
    "_get_learning_rate": "self",
    "_track_num_input_tokens": "self inputs",
    "_load_rng_state": "self checkpoint",
    "_save_optimizer_and_scheduler": "self output_dir",
    "_save_scaler": "self output_dir",
    "_save_rng_state": "self output_dir",
}
# an attribute that is written: the line that we rely on, and where it is
WRITTEN = {
    "_tr_loss": (Trainer._inner_training_loop, "self._tr_loss = torch.tensor(0.0, device=args.device)"),
    "_total_loss_scalar": (Trainer._maybe_log_save_evaluate, "self._total_loss_scalar += tr_loss_scalar"),
    "_globalstep_last_logged": (
        Trainer._maybe_log_save_evaluate,
        "self.state.global_step > self._globalstep_last_logged",
    ),
    "_shared_state": (AcceleratorState.__init__, "self.__dict__.update(PartialState._shared_state)"),
    "_dtype": (HfTrainerDeepSpeedConfig.dtype, "return self._dtype"),
}


def parameters(name: str) -> str:
    return " ".join(inspect.signature(getattr(Trainer, name)).parameters)


@pytest.mark.parametrize("name", [*REPLACED, *CALLED, *WRITTEN])
def test_it_is_as_it_was(name):
    if name in CALLED:
        assert parameters(name) == CALLED[name]
    elif name in WRITTEN:
        where, line = WRITTEN[name]
        assert line in inspect.getsource(where)
    else:
        expected, caller, digest = REPLACED[name]
        assert parameters(name) == expected
        assert f"self.{name}(" in inspect.getsource(getattr(Trainer, caller))
        found = hashlib.sha256(inspect.getsource(getattr(Trainer, name)).encode()).hexdigest()[:12]
        assert found == digest, f"Trainer.{name} was changed: compare it with ours, then write the new digest here"


@pytest.mark.parametrize("trainer", [Data2VecTrainer, FineTuneTrainer])
def test_nothing_else_private_is_replaced(trainer):
    ours = trainer.__mro__[: trainer.__mro__.index(Trainer)]
    private = {name for kind in ours for name in vars(kind) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if hasattr(Trainer, name)} == set(REPLACED)
    assert isinstance(PartialState._shared_state, dict)
