"""The content-addressed storage behind the loopback Hub, for hf_xet itself to write to and read from.

hf_xet takes a folder for a storage server if its address starts with `local://`, and then does all it does: chunks,
deduplicates, packs chunks into xorbs, and describes files in shards. The scheme is hf_xet's own, not documented.
"""

from __future__ import annotations

import shutil
import struct
import time
from itertools import count
from pathlib import Path

RECORD = 48  # bytes of every record of a shard, its header included
_LAST = b"\xff" * 32  # in place of a hash, after the last file
_VERIFIED, _DESCRIBED = 1 << 31, 1 << 30


class XetStore:
    """Files by their sha256, as the Hub knows them, in a folder that hf_xet fills.

    One process at a time can have the storage open, so readers get copies of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = count()

    def connect(self, write: bool) -> dict[str, str]:
        """Return the headers that tell a client where to write, or where to read what is there by now."""
        folder = self.folder / "written" if write else self._copy()
        folder.mkdir(parents=True, exist_ok=True)
        return {
            "X-Xet-Cas-Url": f"local://{folder}",
            "X-Xet-Access-Token": "a-token-of-the-storage",
            "X-Xet-Token-Expiration": str(int(time.time()) + 3600),
        }

    def find(self, sha256: str) -> tuple[str, int] | None:
        """Return the Xet hash and the size of a file."""
        return self._list_files().get(sha256)

    def read(self, sha256: str) -> bytes:
        """Put a file together again from its chunks."""
        from hf_xet import XetFileInfo, XetSession

        xet_hash, size = self._list_files()[sha256]
        where = self.connect(write=False)
        group = XetSession().new_download_stream_group(
            endpoint=where["X-Xet-Cas-Url"],
            token=where["X-Xet-Access-Token"],
            token_expiry_unix_secs=int(where["X-Xet-Token-Expiration"]),
        )
        return b"".join(bytes(part) for part in group.download_stream(XetFileInfo(xet_hash, size)))

    def _list_files(self) -> dict[str, tuple[str, int]]:
        """Read all shards: of each file a header, its segments, their hashes if verified, and its sha256."""
        files = {}
        for shard in self.folder.glob("written/xet/xorbs/shards/*.mdb"):
            content, at = shard.read_bytes(), RECORD
            while content[at : at + 32] != _LAST:
                flags, n_segments = struct.unpack_from("<II", content, at + 32)
                size = sum(
                    struct.unpack_from("<I", content, at + RECORD * (1 + segment) + 36)[0]
                    for segment in range(n_segments)
                )
                end = at + RECORD * (1 + n_segments * (2 if flags & _VERIFIED else 1))
                if flags & _DESCRIBED:
                    files[_read_hash(content, end)] = (_read_hash(content, at), size)
                    end += RECORD
                at = end
        return files

    def _copy(self) -> Path:
        copy = self.folder / f"copy-{next(self._numbers)}"
        if (self.folder / "written").is_dir():
            shutil.copytree(self.folder / "written", copy, ignore=shutil.ignore_patterns("shard-*"))
        return copy


def _read_hash(content: bytes, at: int) -> str:
    """Write out a hash as Xet does: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack_from("<4Q", content, at))
