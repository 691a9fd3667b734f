"""Errors of publishing, each explained in one sentence that says what to do."""

from __future__ import annotations

import re


class PublishError(RuntimeError):
    """Publishing failed; the message says what to do. The repository is unchanged, or holds the whole commit."""


_BY_STATUS = {
    401: "The Hub does not accept the token: make one with write access at https://huggingface.co/settings/tokens and "
    "pass it by `hf auth login` or HF_TOKEN",
    403: "The token may not write to {repo}: use one with write access to it, another REPO_ID, or --create-pr",
    404: "{repo} is not there, or the token may not see it: check the name and whose token it is",
    409: "The Hub says that {repo} is being changed or is there already: run the same command again",
    412: "{repo} was changed on the Hub in the meantime, and nothing was overwritten: look at the change, then run "
    "the same command again",
    413: "The Hub finds a file too large: save the model in smaller shards, model.save(...), and build again",
    429: "The Hub has had too many requests: wait some minutes, then run the same command again",
}
_NO_XET = (
    "The Hub lets the token upload nothing by Xet: use one with write access to {repo}, or set HF_HUB_DISABLE_XET=1 "
    "if this Hub has no Xet"
)
_BY_XET_STATUS = {**_BY_STATUS, 401: _NO_XET, 403: _NO_XET, 404: _NO_XET}


def explain(error: Exception, repo: str, seconds: float | None) -> str:
    """Say what to do about an error of the Hub's clients.

    Args:
        error: What they raised.
        repo: Id of the repository.
        seconds: How long the Hub may be silent, if that is bounded.

    Returns:
        One sentence, with what the Hub said in brackets.
    """
    from json import JSONDecodeError

    import httpx2
    from huggingface_hub.errors import (
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # huggingface_hub wraps the error of a file in one that only names the file
    # In this order: the specific ones are subclasses of the general ones.
    if isinstance(error, OfflineModeIsEnabled):
        text = "HF_HUB_OFFLINE or --offline forbids every request: unset it to publish"
    elif isinstance(error, HFValidationError):
        text = "{repo} is no name that the Hub takes: give it as user/name, of letters, digits, `-`, `_` and `.`"
    elif isinstance(error, RevisionNotFoundError):
        text = "{repo} has no such revision: name a branch with --revision, and it will be made from `main`"
    elif isinstance(error, RepositoryNotFoundError):
        text = _BY_STATUS[404]
    elif (status := _read_status(error)) is not None:
        by_status = _BY_XET_STATUS if isinstance(error, ConnectionError) else _BY_STATUS
        text = by_status.get(status, f"The Hub answered with status {status}: run the same command again later")
    elif isinstance(error, httpx2.TimeoutException):
        waited = "in time" if seconds is None else f"within {seconds:.0f} s"
        text = f"The Hub gave no answer {waited}: check the connection, then run the same command again"
    elif isinstance(error, JSONDecodeError):
        text = "What answered is no Hub: check the connection, and HF_ENDPOINT if it is set"
    elif isinstance(error, (httpx2.HTTPError, OSError, RuntimeError)):
        text = "The connection to the Hub broke: run the same command again, it goes on with what is missing"
    else:
        text = "The Hub rejects the front matter of README.md: correct it, then build and publish again"
    said = " ".join(str(error).split())
    return f"{text.format(repo=repo)} ({said[:200]})"


def _read_status(error: Exception) -> int | None:
    """Return the HTTP status of an error; that of hf_xet is in the message alone."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return int(error.response.status_code)
    said = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error))
    return int(said[1]) if said and isinstance(error, ConnectionError) else None
