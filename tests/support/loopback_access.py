"""Who may do what on the loopback Hub, and how it refuses the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass


class HubError(Exception):
    """An answer that the clients know by its headers."""

    def __init__(self, status: int, code: str, commit: str | None = None) -> None:
        super().__init__(code)
        self.status, self.code, self.commit = status, code, commit


@dataclass(frozen=True)
class Token:
    """What a token stands for."""

    user: str
    namespaces: frozenset[str]
    role: str = "write"


_ALICE = frozenset({"alice", "lab"})  # an organisation of hers
TOKENS = {
    "hf_alice": Token("alice", _ALICE),
    "hf_alice_reads": Token("alice", _ALICE, "read"),
    "hf_bob": Token("bob", frozenset({"bob"})),
}
_WRITES = re.compile(r"/api/.+/(preupload|commit|branch|xet-write-token)/.+|/.+\.git/info/lfs/objects/batch")


def find_token(authorization: str | None) -> Token | None:
    """Return whose request it is; None if it is anonymous."""
    if authorization is None:
        return None
    given = authorization.removeprefix("Bearer ")
    if given not in TOKENS:
        raise HubError(401, "Invalid user token.")
    return TOKENS[given]


def refuse_hidden(token: Token | None, name: str, private: bool) -> None:
    """Raise what the Hub answers about a repository that someone may not see: the same as if it were not there."""
    if private and (token is None or name.split("/")[0] not in token.namespaces):
        raise HubError(404 if token else 401, "RepoNotFound")


def refuse_write(token: Token | None, method: str, path: str, name: str, create_pr: bool = False) -> None:
    """Raise if a request would write where its token may not; anyone may propose a pull request."""
    if not (_WRITES.fullmatch(path) or method == "DELETE" or path == "/api/repos/create"):
        return
    if token is None:
        raise HubError(401, "Invalid username or password.")
    if token.role != "write":
        raise HubError(403, "This token is for reading.")
    proposes = create_pr or path.endswith("/batch")  # which is asked without saying what for
    if name.split("/")[0] not in token.namespaces and not proposes:
        raise HubError(403, f"You don't have the rights to write to {name}.")
