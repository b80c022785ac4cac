"""Tokens and passwords stay out of what a run writes: its recipe, its command line, its messages."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


HIDDEN = "***"
SECRET_NAME = re.compile(r"(^|[_.\-])(token|password|passwd|secret|api_key|apikey|access_key|credentials?)$", re.I)
# Secrets whatever they are called: the prefixes that makers give their tokens, and a length.
SHAPES = (
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}",  # Hugging Face
    r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",  # GitHub
    r"gl(pat|dt|rt|cbt|ptt|ft|agent|imt|oas|soat|ffct)-[\w.-]{20,}",  # GitLab
    r"sk-[\w-]{20,}|gsk_\w{20,}|r8_\w{20,}|nvapi-[\w-]{20,}",  # OpenAI, Anthropic, Groq, Replicate, NVIDIA
    r"(AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS
    r"AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",  # Google
    r"xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}|hooks\.slack\.com/(services|workflows)/[\w/+-]{20,}",  # Slack
    r"[rs]k_(live|test)_[A-Za-z0-9]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}",  # Stripe, SendGrid
    r"npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|dckr_pat_[\w-]{20,}",  # registries: npm, PyPI, Docker
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",  # a JSON Web Token
)
SECRET_VALUE = re.compile(rf"(?<![A-Za-z0-9_])({'|'.join(SHAPES)})")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY[^-]*-----([\s\S]*?-----END [^-]*-----)?")
# user:password, or a long name of a user, which is a token; up to the last @
SECRET_IN_URL = re.compile(r"(?<=://)([^/\s\"'@]*:[^/\s\"']+|[\w.~%-]{20,})(?=@)")
# what a value follows: bearer XYZ, WANDB_API_KEY=XYZ, ?token=XYZ, aws_secret_access_key = XYZ
SECRET_BEHIND = re.compile(
    r"(\b(?i:bearer|authorization:\s*(?:basic|token))\s+"
    r"|\b(?:[A-Z0-9]+_)*(?:TOKEN|PASSWORD|SECRET|API_KEY|ACCESS_KEY|SECRET_KEY)=[\"']?"
    r"|[?&](?i:(?:access_|auth_|private_|x-amz-security-)?token|api_?key|password|secret|sig|(?:x-amz-)?signature)="
    r"|(?i:aws_?secret_?(?:access_?)?key|account_?key)[\"']?\s*[:=]\s*[\"']?)"
    r"(?![$<{*])([\w.~+/=-]{8,})"
)


def is_secret(name: str) -> bool:
    """Whether a field of this name holds a secret: `hub_token` does, `mask_token` and `max_tokens` do not."""
    return bool(SECRET_NAME.search(name)) and name.replace("-", "_").split(".")[-1] not in SPECIAL_TOKENS


SPECIAL_TOKENS = {f"{name}_token" for name in ("bos", "eos", "cls", "sep", "pad", "mask", "unk", "image")}


def mask_text(text: str) -> str:
    """Free text without what looks like a secret."""
    for pattern in (PRIVATE_KEY, SECRET_VALUE, SECRET_IN_URL):
        text = pattern.sub(HIDDEN, text)
    return SECRET_BEHIND.sub(rf"\1{HIDDEN}", text)


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
