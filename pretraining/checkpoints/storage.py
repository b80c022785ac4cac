"""Checkpoints that are there whole or not at all.

One is written aside, in `_writing/` of the run folder, where neither `list_checkpoints` nor a push to the Hub looks.
When every rank is done, `manifest.json` with the size and the SHA-256 of each file, and its own, goes in last,
everything is forced to the disk, and one rename makes it visible. At the start of a run the newest checkpoint that
agrees with its manifest is used; a damaged one is named and set aside as `_damaged-checkpoint-N`. Old ones go only
when a newer one is safe.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..console.help import EXIT_DIVERGED, EXIT_REFUSED, EXIT_STORAGE
from ..console.progress import progress


logger = logging.getLogger(__name__)

WRITING = "_writing"  # a name that Trainer's push to the Hub leaves out
DAMAGED = "_damaged-"
MANIFEST = "manifest.json"
LOCK = ".lock"
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
WRITE_SIGNS: dict[type[Exception], tuple[str, ...]] = {
    SafetensorError: ("I/O error",),
    RuntimeError: ("PytorchStreamWriter", "inline_container", "basic_ios", "Parent directory"),  # of torch.save
}
CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")


class StorageError(RuntimeError):
    """Something could not be written: a full disk, a folder that is read-only or gone."""


def is_disk_error(error: BaseException) -> bool:
    """Whether an error, wherever it was raised, says that the disk is full or cannot be written."""
    if isinstance(error, StorageError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS
    words = str(error)  # of compiled code, which has no error numbers
    return any(os.strerror(number) in words for number in DISK_ERRORS)


def is_write_error(error: BaseException) -> bool:
    """Whether an error in the middle of a write says that the file system refused it.

    `open`, `safetensors`, `tokenizers` and `torch.save` each have their own; `torch.save` several, by what was left of
    the disk. A pipe or a connection that broke is none.
    """
    if isinstance(error, CheckpointException):  # of shards: what each rank met
        return all(is_write_error(failure) for failure, _ in error.failures.values())
    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError)
    return is_disk_error(error) or any(
        sign in str(error) for kind, signs in WRITE_SIGNS.items() if isinstance(error, kind) for sign in signs
    )


def exit_code(error: Exception) -> int | None:
    """The code of a command that ends with an error which its message explains; None: a fault, show the traceback."""
    if isinstance(error, ValueError | FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return EXIT_REFUSED
    if isinstance(error, FloatingPointError):
        return EXIT_DIVERGED
    return EXIT_STORAGE if is_disk_error(error) else None


def storage_error(what: Path, error: BaseException) -> StorageError:
    """`error` with the name of what was to be written, the room that is left and the checkpoint that is safe."""
    folder = what if what.is_dir() else next((parent for parent in what.parents if parent.is_dir()), Path("/"))
    run_folder = next((parent for parent in what.parents if parent.is_dir()), Path("/"))
    safe = list_checkpoints(run_folder)
    kept = f"The last complete checkpoint, {safe[-1]}, is intact." if safe else "No checkpoint was lost."
    return StorageError(
        f"{what} could not be written: {error}. Free there: {shutil.disk_usage(folder).free / 2**20:,.0f} MiB. {kept} "
        "Make room or correct the permissions and give the same command again."
    )


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest step first; none where there is no such folder.

    `transformers`' own list reads the step from the whole path, so a line break or another checkpoint's name in it
    misleads it.
    """
    found = [path for path in (folder.iterdir() if folder.is_dir() else ()) if path.is_dir()]
    return sorted((path for path in found if CHECKPOINT.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that the name of a checkpoint says."""
    return int(checkpoint.name.rpartition("-")[2])


# ---- writing ----


def publish(staged: Path, final: Path, facts: Mapping[str, Any]) -> None:
    """Make a completely written folder visible: manifest, fsync, rename. A folder of that name gives way to it."""
    manifest = {**facts, "files": {name: describe_file(staged / name) for name in _files(staged)}}
    manifest["sha256"] = _digest(manifest)
    (staged / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync_tree(staged)
    if final.exists():  # the same step saved again; a kill between the renames is repaired by `recover`
        discard(final, staged.parent)
    os.rename(staged, final)
    sync(final.parent)


def rotate(run_folder: Path, keep: int | None, best: str | None = None) -> None:
    """Remove the oldest checkpoints beyond `keep`, never the newest nor `best`."""
    if not keep or keep <= 0:
        return
    checkpoints = list_checkpoints(run_folder)
    safe = {checkpoints[-1], *([Path(best)] if best else [])} if checkpoints else set()
    surplus = len(checkpoints) - max(keep, len(safe))
    for checkpoint in [path for path in checkpoints if path not in safe][: max(surplus, 0)]:
        discard(checkpoint, run_folder / WRITING)


def go_back(run_folder: Path, step: int) -> None:
    """Remove the checkpoints from after a step, but for the oldest one."""
    for checkpoint in list_checkpoints(run_folder)[1:]:
        if step_of(checkpoint) > step:
            discard(checkpoint, run_folder / WRITING)


def discard(folder: Path, aside: Path) -> None:
    """Remove a folder so that a kill leaves it whole or invisible."""
    aside.mkdir(exist_ok=True)
    rubbish = aside / f"old-{folder.name}"
    shutil.rmtree(rubbish, ignore_errors=True)
    os.rename(folder, rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def move_files(staged: Path, into: Path) -> None:
    """Replace the files of a folder one by one, each atomically; `config.json`, which makes it open, comes last."""
    sync_tree(staged)
    into.mkdir(parents=True, exist_ok=True)
    for name in sorted(_files(staged), key=lambda name: (name == "config.json", name)):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged / name, into / name)
    sync(into)
    shutil.rmtree(staged, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Force every file of a folder, and the folders themselves, to the disk."""
    for name in _files(folder):
        sync(folder / name)
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def describe_file(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


# ---- starting ----


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The facts given to `publish`, and `files`. Raises ValueError where it is missing or not as it was written."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        written = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MANIFEST} is missing or unreadable ({type(error).__name__})") from error
    if written != _digest(manifest):
        raise ValueError(f"{MANIFEST} was changed after it was written")
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None where every file is as it was written."""
    try:
        expected = read_manifest(checkpoint)["files"]
    except ValueError as error:
        return str(error)
    for name, facts in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes of {facts['bytes']:,}"
    size = sum(facts["bytes"] for facts in expected.values())
    with (
        progress(title=f"checking {checkpoint.name}", unit="B", total=size) as bar,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,  # hashing does not hold the interpreter's lock
    ):

        def described(name: str) -> dict[str, Any]:
            found = describe_file(checkpoint / name)
            bar.update(found["bytes"])
            return found

        found = list(pool.map(described, expected))
    for (name, facts), now in zip(expected.items(), found, strict=True):
        if now != facts:
            return f"{name} is not what was written (SHA-256 {now['sha256'][:8]}..., not {facts['sha256'][:8]}...)"
    return None


def recover(run_folder: Path) -> Path | None:
    """Tidy up after a run that was killed, and find the checkpoint to continue from; None where there is none.

    Raises:
        ValueError: there are checkpoints, but none is usable; a run never starts over without being told to.
    """
    for staged in list_checkpoints(run_folder / WRITING):
        if damage(staged) is None and not (run_folder / staged.name).exists():
            os.rename(staged, run_folder / staged.name)  # killed after the last byte, before the rename
            sync(run_folder)
    shutil.rmtree(run_folder / WRITING, ignore_errors=True)
    found: dict[str, str] = {}
    for checkpoint in reversed(list_checkpoints(run_folder)):
        problem = damage(checkpoint)
        if problem is None:
            for name, reason in found.items():
                aside = run_folder / f"{DAMAGED}{name}"
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(run_folder / name, aside)
                logger.error(
                    "%s is damaged: %s. It is set aside as %s, and %s is used.",
                    run_folder / name,
                    reason,
                    aside.name,
                    checkpoint.name,
                )
            return checkpoint
        found[checkpoint.name] = problem
    if found:
        listed = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        raise ValueError(
            f"{run_folder} holds checkpoints, but none that is complete ({listed}). Restore one, or remove them all "
            "(or use another training.output_dir) to start from the beginning."
        )
    return None


@contextmanager
def claimed(run_folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder, as long as this process lives and however it ends.

    Raises ValueError where another process has it, StorageError where the folder cannot be written.
    """
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        file = open(run_folder / LOCK, "a", encoding="utf-8")
    except OSError as error:
        raise storage_error(run_folder / LOCK, error) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process; loader workers do not inherit it
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(
                f"{run_folder} is in use by another process: wait for it, or use another training.output_dir."
            ) from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s): do not start a second run in it.", run_folder, error)
        yield
