"""The hashes by which the Hub knows the files of a repository."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Fingerprint:
    """The hashes that the Hub knows a file by.

    Args:
        oid: Of git, for small text files.
        sha256: For files in large-file storage.
    """

    oid: str
    sha256: str

    @classmethod
    def of(cls, content: bytes | Path) -> Fingerprint:
        """Hash a file, block by block, or content that is at hand."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        oid, sha256 = hashlib.sha1(f"blob {size}\0".encode()), hashlib.sha256()
        with BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            while block := file.read(_BLOCK):
                oid.update(block)
                sha256.update(block)
        return cls(oid.hexdigest(), sha256.hexdigest())

    def matches(self, remote: Any) -> bool:
        """Return whether a `RepoFile` holds the same."""
        return bool(remote.lfs.sha256 == self.sha256 if remote.lfs else remote.blob_id == self.oid)
