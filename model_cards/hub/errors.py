"""What went wrong on the way to the Hub, in words that say what to do. No token is ever part of a message."""

from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...pretraining.console.redact import mask_text


def is_expected(error: BaseException) -> bool:
    """Whether an error is the Hub's, the network's or the input's, and no mistake of this program."""
    return isinstance(error, HfHubHTTPError | OSError | ValueError | RuntimeError) or _is_network(error)


def in_words(error: BaseException, api: HfApi, repo_id: str) -> str:
    """One line for the person: what happened and what helps."""
    status = _status(error)
    tokens = f"{api.endpoint}/settings/tokens"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that nothing may be uploaded: unset it."
    if isinstance(error, LocalTokenNotFoundError):
        return (
            f"There is no token: make one with the right to write at {tokens}, then `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no name of a repository: give OWNER/NAME, of letters, digits, '-', '_' and '.'."
    if status == 401:
        return (
            f"{api.endpoint} does not accept the token, or there is none: make one with the right to write at "
            f"{tokens}, then `hf auth login` or set HF_TOKEN."
        )
    if status == 403:
        return (
            f"The token may not write to {repo_id}: use one with the right to write ({tokens}), or a repository of "
            f"your own. The Hub says: {_said(error)}"
        )
    if status == 412:
        return f"{repo_id} was changed by somebody else meanwhile: give the same command again."
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision. {_said(error)}"
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return f"{repo_id} is not there, or the token may not see it. {_said(error)}"
    if status is not None and status >= 500:
        return (
            f"{api.endpoint} answered with an error ({status}: {_said(error)}). Give the same command again later: "
            "what was uploaded is not uploaded again."
        )
    if _is_network(error):
        return (
            f"{api.endpoint} cannot be reached ({type(error).__name__}): see to the network, the proxy or "
            "HF_ENDPOINT, then give the same command again; what was uploaded is not uploaded again."
        )
    return _said(error)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status, of the error or of the one that it was raised from."""
    while error is not None:
        response: Any = getattr(error, "response", None)
        if response is not None and getattr(response, "status_code", None) is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _is_network(error: BaseException | None) -> bool:
    while error is not None:
        module = type(error).__module__.partition(".")[0]
        names = {cls.__name__ for cls in type(error).__mro__}
        if module.startswith("httpx") and names & {"TransportError", "RequestError"}:
            return True
        if isinstance(error, ConnectionError | TimeoutError):
            return True
        error = error.__cause__
    return False


def _said(error: BaseException) -> str:
    message: Any = getattr(error, "server_message", None) or str(error)
    return mask_text(" ".join(str(message).split()))
