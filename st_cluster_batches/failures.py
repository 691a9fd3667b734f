"""What can go wrong on the way to the Hub, each in one sentence that says what to do."""

from __future__ import annotations


class PublishError(RuntimeError):
    """Publishing failed; the message says what to do. What was on the Hub before is as it was, or complete."""


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


def explain(error: Exception, repo: str, seconds: float | None) -> str:
    """Say what to do about an error of the Hub's clients.

    Args:
        error: What they raised.
        repo: Id of the repository.
        seconds: How long the Hub may be silent, if that is bounded.

    Returns:
        One sentence, with what the Hub said in brackets.
    """
    import httpx2
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # In this order: the specific ones are subclasses of the general ones.
    if isinstance(error, OfflineModeIsEnabled):
        text = "HF_HUB_OFFLINE or --offline forbids every request: unset it to publish"
    elif isinstance(error, HFValidationError):
        text = "{repo} is no name that the Hub takes: give it as user/name, of letters, digits, `-`, `_` and `.`"
    elif isinstance(error, RevisionNotFoundError):
        text = "{repo} has no such revision: name a branch with --revision, and it will be made from `main`"
    elif isinstance(error, RepositoryNotFoundError):
        text = _BY_STATUS[404]
    elif isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        text = _BY_STATUS.get(status, f"The Hub answered with status {status}: run the same command again later")
    elif isinstance(error, httpx2.TimeoutException):
        waited = "in time" if seconds is None else f"within {seconds:.0f} s"
        text = f"The Hub gave no answer {waited}: check the connection, then run the same command again"
    elif isinstance(error, (httpx2.HTTPError, OSError)):
        text = "The connection to the Hub broke: run the same command again, it goes on with what is missing"
    else:
        text = "The Hub rejects the front matter of README.md: correct it, then build and publish again"
    said = " ".join(str(error).split())
    return f"{text.format(repo=repo)} ({said[:200]})"
