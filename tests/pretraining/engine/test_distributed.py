"""Engines without a launcher: what is refused, what a rank holds, and the models sharded by FSDP2 on two processes."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers.trainer_optimizer
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from torch import nn

from data2vec.modeling import Data2Vec2TextForPreTraining, Point2VecForPreTraining
from data2vec.pretraining.engine.distributed import share_statistics
from data2vec.pretraining.engine.launch_check import check_launch
from data2vec.pretraining.engine.sharded_weights import held, is_spread, whole, whole_state_dict
from data2vec.tests.modeling import tiny_data2vec2, tiny_point2vec
from data2vec.tests.pretraining import fsdp_runs
from tests.warm import warm_python


HERE = Path(__file__).parents[1]
ROOT = HERE.parents[1]
LAUNCH = ROOT / "pretraining" / "launch"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_batch_norm_counts_all_ranks_where_that_is_possible(device, caplog):
    model = Point2VecForPreTraining(tiny_point2vec.points_config())
    before = dict(model.named_parameters()), {name: t.clone() for name, t in model.state_dict().items()}
    share_statistics(model, torch.device(device))
    shared = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    names = ["point2vec.embeddings.first_norm", "point2vec.embeddings.third_norm"]
    assert shared == (names if device == "cuda" else [])
    assert ("batch norm counts" in caplog.text) == (device == "cpu")
    assert all(parameter is before[0][name] for name, parameter in model.named_parameters())  # the optimizer's
    after = model.state_dict()
    assert set(after) == set(before[1]) and all(torch.equal(after[name], t) for name, t in before[1].items())


# ---- what is refused ----


def arguments(kind=DistributedType.NO, world_size=1, **values):
    """The part of `TrainingArguments` that is looked at."""
    given = {
        "use_cpu": True,
        "deepspeed": None,
        "fsdp": None,
        "fsdp_plugin_args": None,
        "ddp_backend": None,
        "activation_checkpointing": False,
        "activation_checkpointing_kwargs": None,
        "optim": "adamw_torch_fused",
        "optim_args": None,
        "learning_rate": 1e-3,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "adam_epsilon": 1e-6,
    } | values
    return SimpleNamespace(world_size=world_size, distributed_state=SimpleNamespace(distributed_type=kind), **given)


class TestRefusals:
    def test_one_process_instead_of_two(self):
        """`accelerate launch --cpu --num_processes 2`, in its own words."""
        from accelerate.utils.launch import prepare_simple_launcher_cmd_env

        for processes, refused in ((1, False), (2, True)):
            words = ["--cpu", "--num_processes", str(processes), "run.py"]
            args, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
            said = prepare_simple_launcher_cmd_env(args)[1]
            said = {name: value for name, value in said.items() if name not in ("WORLD_SIZE", "RANK")}
            if refused:
                with pytest.raises(ValueError, match="started one. Use --multi_gpu"):
                    check_launch(arguments(), said)
            else:
                check_launch(arguments(), said)

    def test_processes_that_do_not_know_of_each_other(self):
        with pytest.raises(
            ValueError, match="2 processes were started and each would train on its own.*use_cpu = true"
        ):
            check_launch(arguments(use_cpu=False), {"WORLD_SIZE": "2"})
        with pytest.raises(ValueError, match="ddp_backend = gloo"):
            said = {"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}
            check_launch(arguments(use_cpu=False), said)
        with pytest.raises(ValueError, match="would not exchange gradients"):
            check_launch(arguments(world_size=2, use_cpu=False, ddp_backend="gloo"), {"WORLD_SIZE": "2"})

    @pytest.mark.parametrize(
        ("optimizer", "library"), [("adamw_torch_8bit", "torchao"), ("adamw_8bit", "bitsandbytes"), ("lomo", "lomo")]
    )
    def test_an_optimizer_whose_library_is_not_installed(self, monkeypatch, optimizer, library):
        for name in ("torchao", "bitsandbytes", "lomo"):
            monkeypatch.setattr(transformers.trainer_optimizer, f"is_{name}_available", lambda: False)
        with pytest.raises(ValueError, match=rf"training.optim = '{optimizer}' needs a library.*{library}"):
            check_launch(arguments(optim=optimizer), {})

    def test_deepspeed_that_would_be_ddp(self):
        said = {"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}
        with pytest.raises(ValueError, match="would train with DDP"):
            check_launch(arguments(DistributedType.MULTI_CPU, world_size=2), said)

    def test_the_first_fsdp(self):
        said = {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}
        with pytest.raises(ValueError, match="fsdp_version = 1 is invalid"):
            check_launch(arguments(DistributedType.MULTI_CPU, world_size=2), said)
        check_launch(arguments(DistributedType.MULTI_CPU, world_size=2), said | {"FSDP_VERSION": "2"})

    @pytest.mark.parametrize(
        ("layerdrop", "freeze", "kwargs", "refused"),
        [
            (0.5, 0, {"use_reentrant": True}, "model.layerdrop = 0.5"),
            (0.5, 0, {"preserve_rng_state": False}, "model.layerdrop = 0.5"),  # torch's default is reentrant
            (0.0, 2, {"use_reentrant": True}, "training.freeze_encoder_steps = 2"),
            (0.0, 0, {"use_reentrant": True}, None),
            (0.5, 2, {"use_reentrant": False}, None),
            (0.5, 2, None, None),
        ],
    )
    def test_reentrant_recomputing_that_ddp_cannot_look_into(self, layerdrop, freeze, kwargs, refused):
        args = arguments(
            DistributedType.MULTI_CPU, world_size=2, activation_checkpointing=True,
            activation_checkpointing_kwargs=kwargs, freeze_encoder_steps=freeze,
        )  # fmt: skip
        config = SimpleNamespace(layerdrop=layerdrop)
        if refused is None:
            check_launch(args, {"WORLD_SIZE": "2"}, config)
            return
        with pytest.raises(ValueError, match=f"does not work with {refused}.*use_reentrant: false"):
            check_launch(args, {"WORLD_SIZE": "2"}, config)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_deepspeed_that_would_round_the_teacher(self, tmp_path, precision):
        said = {"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}
        args = arguments(world_size=2, use_cpu=False, ddp_backend="gloo")
        own = tmp_path / "own.json"
        own.write_text(json.dumps({precision: {"enabled": True}, "zero_optimization": {"stage": 2}}))
        with pytest.raises(ValueError, match=rf"{precision}\.enabled = true.*set training\.bf16 = true"):
            check_launch(args, said | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(own)})
        own.write_text(json.dumps({precision: {"enabled": "auto"}, "zero_optimization": {"stage": 2}}))
        check_launch(args, said | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(own)})

    @pytest.mark.parametrize(
        ("how", "settings", "said", "refused"),
        [
            ("lower_rate", {"guard_patience": 0}, {}, "guard_patience = 0: must be 1 or more"),
            ("lower_rate", {"lr_scheduler_type": "reduce_lr_on_plateau"}, {}, "which sets its own rate"),
            ("lower_rate", {}, {"ACCELERATE_USE_DEEPSPEED": "true"}, "must be 'stop' with DeepSpeed"),
            ("restart_from_checkpoint", {}, {"ACCELERATE_USE_FSDP": "true"}, "must be 'lower_rate' or 'stop' with F"),
            ("lower_rate", {}, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, None),
            ("restart_from_checkpoint", {}, {}, None),
            ("stop", {"guard_patience": 0}, {"ACCELERATE_USE_DEEPSPEED": "true"}, None),
        ],
    )
    def test_a_rescue_that_could_not_be(self, how, settings, said, refused):
        how = {"on_collapse": how, "guard_patience": 3, "lr_scheduler_type": "cosine", "use_cpu": False} | settings
        args = arguments(DistributedType.MULTI_GPU, world_size=2, **how)
        if refused is None:
            check_launch(args, {"WORLD_SIZE": "2"} | said)
            return
        with pytest.raises(ValueError, match=refused):
            check_launch(args, {"WORLD_SIZE": "2"} | said)

    def test_what_is_fine(self):
        check_launch(arguments(), {})
        check_launch(arguments(DistributedType.MULTI_CPU, world_size=2), {"WORLD_SIZE": "2"})
        check_launch(arguments(DistributedType.MULTI_GPU, world_size=8, use_cpu=False), {"WORLD_SIZE": "8"})
        said = {"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}
        check_launch(arguments(world_size=2, use_cpu=False, ddp_backend="gloo"), said)


# ---- configuration files ----


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configuration_file(path):
    said = yaml.safe_load(path.read_text())
    machines = ["--main_process_ip", "node1", "--machine_rank", "3"] if said["num_machines"] > 1 else []
    words = ["--config_file", str(path), *machines, "pretraining/run.py", "audio_base.yaml"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert args.num_processes == said["num_processes"] and args.mixed_precision == "no"
    engine = {"MULTI_GPU": "multi_gpu", "FSDP": "use_fsdp", "DEEPSPEED": "use_deepspeed", "NO": None}
    wanted = engine[said["distributed_type"]]
    assert [name for name in engine.values() if name and getattr(args, name)] == ([wanted] if wanted else [])
    if wanted == "use_fsdp":
        assert args.fsdp_version == 2 and args.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"
    if wanted == "use_deepspeed":
        assert f"zero{args.zero_stage}" in path.stem
    # what does not hold for every run is left to the recipe
    assert "auto" in {said.get("deepspeed_config", {}).get("gradient_accumulation_steps", "auto")}


# ---- precision ----


@pytest.mark.parametrize("cast", ["bfloat16", "half"])
def test_the_teacher_stays_in_fp32_when_the_model_is_cast(cast):
    """What DeepSpeed does to a module that shall compute in half precision."""
    model = tiny_data2vec2.build(Data2Vec2TextForPreTraining)
    before = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    dtype = getattr(torch, {"bfloat16": "bfloat16", "half": "float16"}[cast])
    assert getattr(model, cast)() is model
    assert {p.dtype for p in model.base_model.parameters()} == {dtype} == {p.dtype for p in model.decoder.parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.teacher.state_dict().items())
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}


def test_unsharded_tensors_are_whole_as_they_are():
    model = nn.Linear(3, 5)
    assert not is_spread(model)
    assert held(model.weight).data_ptr() == whole(model.weight).data_ptr() == model.weight.data_ptr()
    copied = whole_state_dict(model)
    assert torch.equal(copied["weight"], model.weight) and copied["weight"].data_ptr() != model.weight.data_ptr()


# ---- FSDP2, as accelerate shards ----


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    script = [warm_python(), str(HERE / "fsdp_runs.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow  # quick: one of them, in test_distributed_runs.py
@pytest.mark.parametrize("case", fsdp_runs.CASES)
def test_fsdp2_does_what_one_process_does(sharded, case):
    """Student and teacher, sharded block by block, three updates of several micro-batches."""
    model, inputs = fsdp_runs.build(case)
    start = {name: tensor.clone() for name, tensor in model.teacher.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batches = fsdp_runs.one_row_each(inputs, range(4))
    losses = fsdp_runs.train(model, optimizer, batches, inputs["masked"].sum(), model.update_teacher)
    first, second = (rank[case] for rank in sharded)
    assert first["sharded"] and second["sharded"]
    mean = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert mean == pytest.approx(losses, rel=1e-5)
    assert not second["weights"] and first["weights"].keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        if "running_" in name or name.endswith("num_batches_tracked"):
            continue  # statistics of a batch norm are those of the first rank's own rows
        # the bias of the keys has no gradient but rounding errors, which Adam makes large
        torch.testing.assert_close(first["weights"][name], tensor, atol=2e-4, rtol=1e-4, msg=name)
    assert not all(torch.equal(tensor, start[name]) for name, tensor in model.teacher.state_dict().items())
