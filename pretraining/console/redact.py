"""Tokens and passwords stay out of what a run writes: its recipe, its command line, its messages."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


HIDDEN = "***"
SECRET_NAME = re.compile(r"(^|[_.\-])(token|password|passwd|secret|api_key|apikey|access_key|credentials?)$", re.I)
# What is one whatever it is called: Hugging Face, GitHub, OpenAI, AWS, Slack; and the password inside a URL.
SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|xox[abpr]-[\w-]{10,})"
)
SECRET_IN_URL = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret: `hub_token` does, `mask_token` and `max_tokens` do not."""
    return bool(SECRET_NAME.search(name)) and name.replace("-", "_").split(".")[-1] not in SPECIAL_TOKENS


SPECIAL_TOKENS = {f"{name}_token" for name in ("bos", "eos", "cls", "sep", "pad", "mask", "unk", "image")}


def mask_text(text: str) -> str:
    """Free text without what looks like a secret."""
    return SECRET_IN_URL.sub(f"{HIDDEN}:{HIDDEN}", SECRET_VALUE.sub(HIDDEN, text))


def mask_secrets(values: Any, name: str = "") -> Any:
    """A copy of a recipe, or a part of it, with every secret replaced by `***`."""
    if isinstance(values, Mapping):
        return {key: mask_secrets(value, str(key)) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [mask_secrets(value, name) for value in values]
    if values is not None and is_secret(name):
        return HIDDEN
    return mask_text(values) if isinstance(values, str) else values


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """`--hub_token XYZ` and `--hub_token=XYZ` with `***` for the value; and values that look like secrets."""
    masked: list[str] = []
    hide = False
    for word in arguments:
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            secret = is_secret(flag[2:].replace("-", "_"))
            masked.append(f"{flag}={HIDDEN}" if secret and equals else mask_text(word))
            hide = secret and not equals
        else:
            masked.append(HIDDEN if hide else mask_text(word))
            hide = False
    return masked


def mask_command(argv: Sequence[str]) -> str:
    """A command line for the record."""
    return shlex.join(mask_arguments(argv))
