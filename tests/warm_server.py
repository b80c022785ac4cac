"""Forks commands from a process that has imported the libraries: `warm_server.py BIN SOCKET`.

To import torch, transformers and the others takes some six seconds, and a page of documentation starts a dozen
processes. One that is forked here has the libraries and nothing else: this package it imports itself, with the
arguments, folder, environment and standard streams of the one who asked. BIN gets `python`, `accelerate` and
`data2vec`, to be put on PATH; what they cannot do warm, another environment for example, they do with the real Python.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


LIBRARIES = (
    "accelerate.commands.accelerate_cli", "datasets", "evaluate", "jinja2", "jiwer", "matplotlib.pyplot",
    "PIL.Image", "scipy.io.wavfile", "scipy.signal", "sklearn.datasets", "sklearn.linear_model",
    "sklearn.neighbors", "soundfile", "soxr", "torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard",
    "torch.utils.data", "transformers", "transformers.data", "transformers.modeling_layers",
    "transformers.models.data2vec.modeling_data2vec_audio", "transformers.models.data2vec.modeling_data2vec_text",
    "transformers.models.data2vec.modeling_data2vec_vision", "transformers.pipelines", "transformers.trainer",
    "yaml",
)  # fmt: skip
# What libraries read when they are imported: where one of these differs from ours, a process starts cold.
READ_AT_IMPORT = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS", "OMP_", "MKL_", "MPL", "CUDA_", "PYTHON", "USE_")

CLIENT = """#!{python} -ISE
import json, os, socket, sys
real = {real!r}
if sys.argv[1:2] == ["-u"]:  # as torchrun starts its ranks
    del sys.argv[1]
if len(real) == 1 and (len(sys.argv) < 2 or not (sys.argv[1] in ("-c", "-m", "-P") or sys.argv[1].endswith(".py"))):
    os.execv(real[0], real + sys.argv[1:])
asked = socket.socket(socket.AF_UNIX)
asked.connect({socket!r})
words = {warm!r} + sys.argv[1:]
request = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(asked, [len(request).to_bytes(8, "big")], [0, 1, 2])
asked.sendall(request)
answer = asked.recv(1)
if answer == b"\\xff":
    os.execv(real[0], real + sys.argv[1:])
sys.exit(answer[0] if answer else 255)
"""
COLD = 255


def environment_at_import(environment: Any) -> dict[str, str]:
    return {name: value for name, value in environment.items() if value and name.startswith(READ_AT_IMPORT)}


def write_commands(bin_folder: Path, path: str) -> None:
    launcher = ["-m", "accelerate.commands.accelerate_cli"]
    modules: dict[str, list[str]] = {"python": [], "accelerate": launcher, "data2vec": ["-m", "data2vec"]}
    for name, warm in modules.items():
        file = bin_folder / name
        file.write_text(CLIENT.format(python=sys.executable, real=[sys.executable, *warm], warm=warm, socket=path))
        file.chmod(0o755)
    sys.executable = str(bin_folder / "python")  # what `accelerate launch` starts its processes with


def serve(path: str) -> list[str] | None:
    """Answer until standard input ends; in a forked process, return what that is to run."""
    own = environment_at_import(os.environ)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            sys.exit()
        asked, _ = listening.accept()
        if os.fork():
            asked.close()
            continue
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, streams, _, _ = socket.recv_fds(asked, 8, 3)
        request = b""
        while len(request) < int.from_bytes(size, "big"):
            request += asked.recv(1 << 16)
        words, folder, environment = json.loads(request)
        if environment_at_import(environment) != own:
            asked.sendall(bytes([COLD]))
            os._exit(0)
        work = os.fork()
        if work:
            watch(work, asked)
        asked.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return words


def watch(work: int, asked: socket.socket) -> None:
    """Send how the work ended; end it, and what it started, where nobody waits for it any more."""
    ended = os.pidfd_open(work)
    ready, _, _ = select.select([ended, asked], [], [])
    if ended not in ready:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(work, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(work, 0)[1])
    with contextlib.suppress(OSError):
        asked.sendall(bytes([code if 0 <= code < COLD else 128 + abs(code) % 64]))
    os._exit(0)


def work(words: list[str]) -> None:
    """What Python does with such arguments."""
    import numpy as np

    np.random.seed()  # noqa: NPY002 - not the state that every process forked here would share
    del sys.path[0]
    if not (safe := words[0] == "-P"):
        here = {"-c": "", "-m": os.getcwd()}
        sys.path.insert(0, here.get(words[0], os.path.dirname(os.path.abspath(words[0]))))
    how, *rest = words[safe:]
    if how == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    elif how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [how, *rest]
        runpy.run_path(how, run_name="__main__")


def end(work: Callable[[list[str]], None], words: list[str]) -> NoReturn:
    """Do the work and end as Python does, but for taking the libraries' modules apart, which takes a second."""
    code: Any = 0
    try:
        work(words)
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] - threads that are no daemons are waited for
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


if __name__ == "__main__":
    write_commands(Path(sys.argv[1]), sys.argv[2])
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # or every process copies the memory that they share when it collects garbage
    # What one process compiles of this package the next one reads, also where PYTHONDONTWRITEBYTECODE is set.
    # The servers of a session share it: conftest.py gives them one cache.
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.path.join(os.environ["DATA2VEC_CACHE"], "bytecode")
    asked_for = serve(sys.argv[2])
    assert not any(name.startswith("data2vec") for name in sys.modules)
    end(work, asked_for)
