"""Whether the Hub can be reached, told within seconds."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import Request, urlopen

import huggingface_hub.constants

_PROBE_SECONDS = 10


def probe_hub(what: str, remedy: str) -> None:
    """Check that the Hub answers within seconds: its own client tries for half a minute, or for many minutes.

    Args:
        what: What is wanted, as a message names it.
        remedy: What helps where there is no Hub.

    Raises:
        ConnectionError: If there is no answer within seconds.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return  # the client asks nobody: it takes cached data or fails at once
    endpoint = huggingface_hub.constants.ENDPOINT
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except HTTPError:
        pass  # the Hub answered, if only with an error
    except OSError as error:
        raise ConnectionError(
            f"{endpoint}, which has {what}, gave no answer within {_PROBE_SECONDS} s ({error}); {remedy}"
        ) from error
