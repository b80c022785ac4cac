"""Times a training step of the methods beside data2vec 1 and 2.0, and says how far it is from what the machine can do.

    OMP_NUM_THREADS=1 python benchmarks/methods.py --clock processor

One model after the other, of its published recipe at base size, with dropout and LayerDrop off, on made-up input. A
step is: masks, forward with the teacher, backward, clipping, fused AdamW, teacher's move. Operations are counted by
torch in a forward pass; the backward pass has twice those of all but the teacher. The rates of the machine are
measured in the same process before each model.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from machine import measure
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from worker import CLOCKS

from data2vec.pretraining.arguments import read_recipe, resolve


SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
STREAMS = {**SMALL, "resnet_width": 2, "image_size": 32}
# recipe, what a step reads, fields of a tiny model for tests
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "EAT": ("eat_base.yaml", "1 clip of 10 s, 16 views", SMALL),
    "Point2Vec": ("points_base.yaml", "16 clouds of 1024 points", SMALL),
    "AV-data2vec": ("av_base.yaml", "1 clip of 4 s, lips and sound", STREAMS),
    "SV-data2vec": ("sv_base.yaml", "1 clip of 40 frames, video and skeleton", STREAMS),
    "joint": ("joint_base.yaml", "1 clip of 10 s, 8 views", SMALL),
    "MedCoSS": ("medcoss_base.yaml", "1 CT volume of 16 x 192 x 192", SMALL),
}


def inputs_of(method: str, config: Any, tiny: bool) -> dict[str, Any]:
    if method == "EAT":
        return {"input_values": torch.randn(1, 128 if tiny else 1024, config.num_mel_bins)}
    if method == "Point2Vec":
        return {"point_values": torch.randn(2 if tiny else 16, 1024, 3)}
    if method == "joint":
        return {"modality": "audio", "input_values": torch.randn(1, 16_000 if tiny else 160_000)}
    if method == "MedCoSS":
        return {"modality": "ct", "voxel_values": torch.randn(1, 1, *config.of("ct").image_size)}
    side = config.image_size
    if method == "AV-data2vec":
        frames = 5 if tiny else 100
        sound = torch.randn(1, frames, config.num_mel_bins * config.num_stacked_frames)
        return {"input_features": sound, "pixel_values": torch.randn(1, frames, 1, side, side)}
    frames = config.max_position_embeddings
    skeletons = torch.randn(1, frames, config.num_persons, config.num_joints, 2)
    return {"pixel_values": torch.randn(1, frames, config.num_channels, side, side), "keypoint_values": skeletons}


def build(method: str, tiny: bool) -> tuple[Any, dict[str, Any]]:
    """The pretraining model of the recipe, which leaves nothing out, and inputs of a step."""
    recipe = read_recipe(Path(METHODS[method][0]))
    recipe.pop("stages", None)
    recipe["model"] |= METHODS[method][2] if tiny else {}
    recipe["training"] |= {"bf16": False, "use_cpu": True}
    config = resolve(recipe).config
    for name in ("layerdrop", "drop_path_rate"):
        if hasattr(config, name):
            recipe["model"][name] = 0.0
    run = resolve(recipe)
    torch.manual_seed(0)
    model = run.model_class(run.config).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, inputs_of(method, run.config, tiny)


def operations(model: Any, inputs: dict[str, Any]) -> float:
    """Of a step's matrix products and convolutions; the teacher has no backward pass."""

    def counter() -> FlopCounterMode:
        return FlopCounterMode(
            display=False,
            custom_mapping={
                torch.ops.aten.baddbmm_: lambda added, left, right, **_: 2 * left[0] * left[1] * left[2] * right[2],
                torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
                    sdpa_flop_count(query, key, value)
                ),
            },
        )

    part = model.parts[inputs.get("modality", "")]
    name = next(name for name in ("run_teacher", "_add_targets") if hasattr(part, name))
    teacher, run_teacher = [], getattr(part, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        with counter() as inside:
            found = run_teacher(*args, **kwargs)
        teacher.append(inside.get_total_flops())
        return found

    setattr(part, name, counted)
    try:
        with counter() as whole:
            model(**inputs)
    finally:
        delattr(part, name)
    return 3 * whole.get_total_flops() - 2 * sum(teacher)


def time_steps(method: str, rounds: int, clock: str, tiny: bool) -> dict[str, float]:
    machine, now = measure(("fp32",), quick=tiny, now=CLOCKS[clock]), CLOCKS[clock]
    model, inputs = build(method, tiny)
    flops = operations(model, inputs)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    seconds = []
    for _ in range(2 + rounds):  # two to warm up: the second still asks for memory
        began = now()
        model(**inputs).loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        model.update_teacher(0.999)
        seconds.append(now() - began)
    step, weights = statistics.median(seconds[2:]), sum(parameter.numel() for parameter in trained)
    teacher = sum(parameter.numel() for parameter in model.parameters()) - weights
    share, floor = flops / step / machine.gemm["fp32"], machine.floor(flops, "fp32", weights, teacher)
    return {"gflop": flops / 1e9, "seconds": step, "of_gemm": share, "of_floor": floor / step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="as step.py's")
    parser.add_argument("--tiny", action="store_true", help="small models, for tests")
    given = parser.parse_args()
    print("| method | a step reads | GFLOP | step s | of GEMM peak | of the floor |\n" + "| --- " * 6 + "|")
    for method in given.method:
        found = time_steps(method, given.rounds, given.clock, given.tiny)
        print(
            f"| {method} | {METHODS[method][1]} | {found['gflop']:.0f} | {found['seconds']:.2f} | "
            f"{found['of_gemm']:.0%} | {found['of_floor']:.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
