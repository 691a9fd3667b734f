"""Rows whose vectors lie in the cache already: of other datasets, or of runs that ended early."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from st_cluster_batches.column_values import sample_rows
from st_cluster_batches.data.pairs import Side
from st_cluster_batches.storage.cache import read_json, write_atomically
from st_cluster_batches.storage.chunks import ChunkedArray

_SAMPLE = 1024  # rows that are looked for in a dataset before all are

TextHashes = npt.NDArray[np.uint64]


def write_index(folder: Path, encoder_hash: str, keys: ChunkedArray, sides: Mapping[Side, str]) -> None:
    """Write down which vectors and row keys belong together, for `EarlierRows.find`.

    Args:
        folder: The cache.
        encoder_hash: Hash of the encoder.
        keys: The keys of the rows, by `hash_rows`.
        sides: Names of the folders of their vectors.
    """
    name = f"{_index_prefix(encoder_hash)}{keys.folder.name.removeprefix('row-keys-')}.json"
    content = {"keys": keys.folder.name, "rows": keys.n_rows, "sides": dict(sides)}
    write_atomically(folder / name, json.dumps(content))


@dataclass(frozen=True)
class EarlierRows:
    """Where the vectors of some rows lie.

    Args:
        arrays: Vectors of other datasets under the same encoder, perhaps not all of them.
        array_of_row: (n,) the array that holds a row, or -1.
        place_of_row: (n,) its row there.
    """

    arrays: list[ChunkedArray]
    array_of_row: npt.NDArray[np.int16]
    place_of_row: npt.NDArray[np.int64]

    @classmethod
    def find(
        cls, folder: Path, encoder_hash: str, side: Side, keys: TextHashes, made: ChunkedArray | None = None
    ) -> EarlierRows:
        """Look rows up by their keys; datasets that share no row of a sample cost a second for 10M rows.

        Args:
            folder: The cache.
            encoder_hash: Hash of the encoder whose vectors are wanted.
            side: Queries or passages.
            keys: (n,) the keys of the rows, by `hash_rows`.
            made: The vectors that are to be made, which are not looked at.
        """
        found = cls([], np.full(len(keys), -1, dtype=np.int16), np.zeros(len(keys), dtype=np.int64))
        if not len(keys):
            return found
        sample = np.sort(keys[sample_rows(len(keys), _SAMPLE)])
        order: npt.NDArray[np.intp] | None = None
        for path in sorted(folder.glob(f"{_index_prefix(encoder_hash)}*.json")):
            index = read_json(path)
            vectors = ChunkedArray.at(folder / index["sides"].get(side, "none"), index["rows"])
            stored = ChunkedArray.at(folder / index["keys"], index["rows"])
            is_own = made is not None and vectors.folder == made.folder
            if is_own or not vectors.has_chunks() or not stored.is_complete():
                continue
            if any(len(_match(sample, part)[0]) for *_, part in stored):
                order = np.argsort(keys, kind="stable") if order is None else order
                found._add(vectors, stored, keys, order)
            if (found.array_of_row >= 0).all():
                break
        return found

    def _add(self, vectors: ChunkedArray, stored: ChunkedArray, keys: TextHashes, order: npt.NDArray[np.intp]) -> None:
        """Note the rows that an array holds, in chunks that are as they were written, and that no other one holds."""
        ordered = keys[order]
        place = np.full(len(keys), -1)
        for low, _, part in stored:
            at, rows = _match(ordered, part)
            place[order[at]] = low + rows
        place[order] = place[order[np.searchsorted(ordered, ordered)]]  # equal keys share what the first has found
        is_there = (place >= 0) & (self.array_of_row < 0)
        chunks = place // vectors.chunk_rows
        whole = [chunk for chunk in np.unique(chunks[is_there]).tolist() if vectors.holds(chunk)]
        is_there &= np.isin(chunks, whole)
        self.array_of_row[is_there] = len(self.arrays)
        self.place_of_row[is_there] = place[is_there]
        self.arrays.append(vectors)

    def take(self, low: int, high: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float16] | None]:
        """Return which of some rows are known, and the vectors of these; None if there are none."""
        array_of_row, place_of_row = self.array_of_row[low:high], self.place_of_row[low:high]
        is_known = array_of_row >= 0
        vectors: npt.NDArray[np.float16] | None = None
        for number in np.unique(array_of_row[is_known]).tolist():
            is_here = array_of_row == number
            places, back = np.unique(place_of_row[is_here], return_inverse=True)
            taken = self.arrays[number].take(places)[back]
            if vectors is None:
                vectors = np.empty((high - low, taken.shape[1]), dtype=np.float16)
            vectors[is_here] = taken
        return is_known, None if vectors is None else vectors[is_known]


def _index_prefix(encoder_hash: str) -> str:
    return f"pairs-{encoder_hash[:32]}-"


def _match(ordered: TextHashes, keys: TextHashes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the places of the keys that are among ordered ones: the first there, and their own."""
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    rows = np.flatnonzero(ordered[at] == keys)
    return at[rows], rows
