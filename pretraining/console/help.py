"""What every command prints with `--help`, and what its exit codes mean: the same layout everywhere.

what it does · how to call it · one example · recipes and fields · exit codes · where to read on
"""

import argparse
import contextlib
import sys
import textwrap
from collections.abc import Collection, Iterable, Mapping

from .redact import mask_text


WIDTH = 100
EXIT_REFUSED, EXIT_COLLAPSED, EXIT_PREEMPTED, EXIT_STORAGE, EXIT_DIVERGED = 2, 3, 4, 5, 6
# What a shell script can rely on; docs/resilience.md holds the same table.
EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "a fault of the program or of a library: the traceback says where",
    EXIT_REFUSED: "refused: the message names the field or the file, and the fix",
    EXIT_COLLAPSED: "stopped: the representation collapsed, health.json says which number fell",
    EXIT_PREEMPTED: "preempted: SIGTERM or Ctrl-C ended it after a checkpoint, the same command continues",
    EXIT_STORAGE: "something could not be written, a full disk for example",
    EXIT_DIVERGED: "stopped: the loss has exploded, or it or its gradient was not finite too often",
}
ORDINARY = (0, 1, EXIT_REFUSED)  # of commands that do not train
FINE_TUNING = (*ORDINARY, EXIT_PREEMPTED, EXIT_STORAGE, EXIT_DIVERGED)
RECIPE_HELP = "a YAML file, or the name of a recipe that comes with the package"


def command_parser(
    prog: str,
    what: str,
    example: str,
    *,
    page: str,
    usage: str | None = None,
    groups: Mapping[str, str | Iterable[str]] | None = None,
    codes: Collection[int] = ORDINARY,
) -> argparse.ArgumentParser:
    """A parser without arguments yet, whose help ends with the example, `groups`, exit codes and the page to read.

    Args:
        what: what the command does, in a sentence or a few.
        example: one command line that works; further lines are shown below it.
        page: of the documentation, `docs/....md` in the repository.
        usage: without `prog`, where argparse's own says less.
        groups: title -> a text, or the names to list.
        codes: the exit codes that the command can end with.
    """
    parts = [_section("example", example.splitlines())]
    for title, content in (groups or {}).items():
        text = content if isinstance(content, str) else ", ".join(content)
        parts.append(_section(title, textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False, break_long_words=False)))
    parts.append(_section("exit codes", [f"{code}  {EXIT_CODES[code]}" for code in codes]))
    parts.append(_section("documentation", [page]))
    return argparse.ArgumentParser(
        prog=prog,
        usage=None if usage is None else f"{prog} {usage}",
        description=textwrap.fill(" ".join(what.split()), WIDTH),
        epilog="\n\n".join(parts),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=WIDTH),
        allow_abbrev=False,
    )


def end(code: int, error: BaseException) -> int:
    """Say on one line of standard error why a command ends; returns its exit code."""
    line = " ".join(part.strip() for part in str(error).splitlines())
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(f"error: {mask_text(line)}", file=sys.stderr, flush=True)
    return code


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])
