"""All models, tiny, sharded by FSDP2 as accelerate shards them, on two processes: `python fsdp_runs.py FOLDER`.

Each rank writes what it saw to FOLDER/rankN.pt. No test by itself: engine/test_distributed.py runs it and compares.
"""

import os
import socket
import sys
import traceback
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from transformers import Data2VecAudioConfig, Data2VecTextConfig, Data2VecVisionConfig

from data2vec.modeling import (
    Data2Vec2AudioForPreTraining,
    Data2Vec2TextForPreTraining,
    Data2Vec2VisionForPreTraining,
    Data2VecAudioForPreTraining,
    Data2VecTextForPreTraining,
    Data2VecVisionForPreTraining,
    EatForPreTraining,
    Emotion2vecForPreTraining,
    Point2VecForPreTraining,
)
from data2vec.pretraining.engine.distributed import prepare_fsdp, shard_on_cpu
from data2vec.pretraining.engine.sharded_weights import held, is_spread, whole_state_dict
from data2vec.tests.modeling import tiny_data2vec2, tiny_point2vec


def _shape(**kwargs):
    return {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40} | kwargs


def _audio():
    config = Data2VecAudioConfig(
        **_shape(), conv_dim=(10, 14), conv_kernel=(7, 3), conv_stride=(5, 2), num_conv_pos_embeddings=2,
        num_conv_pos_embedding_groups=6, conv_pos_kernel_size=3, layerdrop=0.0, hidden_dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
    )  # fmt: skip
    return config, Data2VecAudioForPreTraining, {"input_values": torch.randn(4, 313)}


def _vision():
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0}
    config = Data2VecVisionConfig(**_shape(), **dropout, image_size=12, patch_size=3, layer_scale_init_value=1.0)
    return config, Data2VecVisionForPreTraining, {"pixel_values": torch.randn(4, 3, 12, 12)}


def _text():
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = Data2VecTextConfig(**_shape(), **dropout, vocab_size=37, max_position_embeddings=40)
    return config, Data2VecTextForPreTraining, {"input_ids": torch.randint(3, 37, (4, 19))}


def _second(model_class):
    kind = tiny_data2vec2.MODELS[model_class]
    decoder = {**tiny_data2vec2.DECODER, "input_dropout": 0.0}
    config = tiny_data2vec2.config_of(model_class)
    # EAT's own weight of 192 would lift the rounding errors, of which Adam makes steps where there is no gradient
    weight = min(config.objective["cls_loss_weight"], 1.0)
    config.objective |= {"decoder": decoder, "mask_noise_std": 0.0, "cls_loss_weight": weight}
    return config, model_class, _four_rows(tiny_data2vec2.inputs(kind))


def _points():
    return tiny_point2vec.points_config(), Point2VecForPreTraining, _four_rows(tiny_point2vec.inputs("points"))


def _four_rows(inputs):
    return {name: tensor.repeat(2, *[1] * (tensor.dim() - 1))[:4] for name, tensor in inputs.items()}


CASES = {
    "audio": _audio, "vision": _vision, "text": _text, "audio 2.0": lambda: _second(Data2Vec2AudioForPreTraining),
    "vision 2.0": lambda: _second(Data2Vec2VisionForPreTraining),
    "text 2.0": lambda: _second(Data2Vec2TextForPreTraining), "EAT": lambda: _second(EatForPreTraining),
    "emotion2vec": lambda: _second(Emotion2vecForPreTraining), "Point2Vec": _points,
}  # fmt: skip


def build(case):
    torch.manual_seed(0)
    config, model_class, inputs = CASES[case]()
    if case in ("audio", "vision", "text"):
        config.objective = {**model_class.default_objective, "top_k_layers": 2}
    if case == "vision":
        config.objective["masking"] = {"method": "beit_block", "ratio": 0.6, "min_patches": 2}
    model = model_class(config).train()
    with torch.no_grad():
        inputs["masked"] = model(**inputs).masked
    return model, inputs


def train(model, optimizer, batches, count, move):
    """Three updates of two micro-batches each; the losses."""
    losses = []
    for _ in range(3):
        losses.append(0.0)
        for batch in batches:
            loss = model(**batch, num_items_in_batch=count).loss
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        move(0.7)
    return losses


def one_row_each(inputs, rows):
    """Micro-batches of one row each."""
    return [{name: tensor[row : row + 1] for name, tensor in inputs.items()} for row in rows]


def _rank(rank: int, port: int, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    accelerator = Accelerator(cpu=True)
    found = {}
    for case in CASES:
        model, inputs = build(case)
        count = inputs["masked"].sum()
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
        prepare_fsdp(plugin, model)
        shard_on_cpu(accelerator, plugin)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        model, optimizer = accelerator.prepare(model, optimizer)
        sharded = is_spread(model.teacher) and is_spread(model.base_model)
        # gradients are a mean over ranks: twice the loss, as `Trainer` has it
        batches = one_row_each(inputs, (2 * rank, 2 * rank + 1))
        losses = train(model, optimizer, batches, count / 2, lambda decay, m=model: m.update_teacher(decay, held=held))
        weights = whole_state_dict(model, keep=rank == 0)
        found[case] = {"losses": losses, "weights": weights, "sharded": sharded}
    torch.save(found, out / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def main(out: Path) -> int:
    """Fork the ranks: imports take longer than what they do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        if (child := os.fork()) == 0:
            code = 1
            try:
                _rank(rank, port, out)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
