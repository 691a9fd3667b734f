"""An index of stored vectors: which row key has which row, and where the vectors of its columns lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.row_keys import certify_keys, read_marks
from st_cluster_batches.storage.cache import hash_values, read_json, write_atomically, write_whole
from st_cluster_batches.storage.chunks import ChunkedArray, MappedRows, hash_array

PREFIX = "guide-"  # of the names of indices
_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)

RowKeys = npt.NDArray[np.int64]


def make_row_keys(hashes: npt.NDArray[np.uint64], encoder_hash: str) -> RowKeys:
    """Return the (n,) keys of rows under an encoder: the same rows under another one have other keys."""
    return certify_keys((hashes ^ np.uint64(int(encoder_hash[:16], 16))) * _MULTIPLIER)


def write_guide(vectors: PairVectors, keys: RowKeys | None = None) -> Path:
    """Embed all columns of some pairs, and index their vectors by row key.

    Args:
        vectors: The pairs under the encoder that is to guide.
        keys: (n,) keys that the rows have already, under another encoder; by default those of this one.

    Returns:
        The index, a small file that names the vectors; a second call with the same inputs finds it.
    """
    encoder, cache, columns = vectors.encoder, vectors.cache, vectors.pairs.text_columns
    folders = [vectors.embed_column(at).folder.name for at in range(len(columns))]
    hashes = vectors.row_hashes
    keys = None if keys is None else read_marks(keys)[0]
    given = [] if keys is None else [hash_array(keys)]
    name = f"{PREFIX}{hash_values(encoder.fingerprint, hashes.folder.name, folders, *given)}"

    def write() -> None:
        path = cache.folder / f"{name}.npy"
        if not path.exists():
            own = make_row_keys(hashes.slice(0, len(vectors)), encoder.fingerprint) if keys is None else keys
            order = np.argsort(own, kind="stable")
            with write_whole(path) as temporary, temporary.open("wb") as file:
                np.save(file, np.stack([own[order], order]))
        content = {
            "keys": path.name,
            "rows": len(vectors),
            "columns": columns,
            "vectors": folders,
            "encoder": encoder.name,
            "encoder_hash": encoder.fingerprint,
            "has_own_keys": keys is None,
        }
        write_atomically(cache.folder / f"{name}.json", json.dumps(content, ensure_ascii=False))

    cache.processes.once(write, None)
    return cache.folder / f"{name}.json"


@dataclass(frozen=True)
class GuideIndex:
    """The vectors of one dataset, by row key.

    Args:
        path: A small file that names all others.
        content: What it says.
    """

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> GuideIndex:
        """Read the small file that `write_guide` has written."""
        return cls(path, read_json(path))

    @property
    def files(self) -> list[str]:
        """Names of the files and folders that it consists of, itself included."""
        return [self.path.name, self.content["keys"], *self.content["vectors"]]

    @property
    def is_complete(self) -> bool:
        """Whether all files that it names are there."""
        folder = self.path.parent
        return (folder / self.content["keys"]).is_file() and all(
            ChunkedArray.at(folder / name, self.content["rows"]).is_complete() for name in self.content["vectors"]
        )

    @cached_property
    def keys(self) -> npt.NDArray[np.int64]:
        """(2, rows) the keys in ascending order and the rows that have them, mapped into memory."""
        mapped: npt.NDArray[np.int64] = np.load(self.path.parent / self.content["keys"], mmap_mode="r")
        return mapped

    @cached_property
    def vectors(self) -> list[MappedRows]:
        """The (rows, d) vectors of queries, positives, then each column of negatives, mapped into memory."""
        folder = self.path.parent
        arrays = [ChunkedArray.at(folder / name, self.content["rows"]) for name in self.content["vectors"]]
        return [MappedRows(array) for array in arrays]

    def find(self, keys: RowKeys) -> npt.NDArray[np.int64]:
        """Return the (n,) rows of n keys, marked or not; -1 for a key that is not here."""
        known, rows = self.keys
        keys = read_marks(keys)[0]
        at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        return np.where(known[at] == keys, rows[at], -1)
