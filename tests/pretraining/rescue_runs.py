"""A run that loses rank and is rescued, on two processes; engine/test_distributed_runs.py starts and compares them."""

import multiprocessing
import os
import socket
from pathlib import Path

import torch

from data2vec.pretraining.monitoring import callbacks
from data2vec.tests.pretraining.test_trainer import make_trainer


def run(how: str, folder: Path) -> list[int | None]:
    """Train with `on_collapse: HOW` into FOLDER/run; each rank writes FOLDER/rankN.pt. Returns the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, port, folder, how)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(300)
        rank.kill()  # one that waits for another that failed
    return [rank.exitcode for rank in ranks]


def _rank(rank: int, port: int, folder: Path, how: str) -> None:
    """A rate a hundred times too high, of which the targets lose rank; what this rank saw goes to FOLDER/rankN.pt."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    callbacks.RESCUED_SHARES["effective_rank"] = 0.6
    trainer = make_trainer(
        folder / "run", learning_rate=0.1, warmup_steps=80, max_steps=40, logging_steps=5, save_steps=10,
        guard_patience=2, on_collapse=how, per_device_train_batch_size=8,
    )  # fmt: skip
    trainer.train()
    found = {"weights": trainer.model.state_dict(), "log": trainer.state.log_history, "collapsed": trainer.collapsed}
    torch.save(found | {"from": str(trainer._resumed_from)}, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()
