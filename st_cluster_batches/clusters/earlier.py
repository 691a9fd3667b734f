"""Rows whose vectors lie in the cache already: of other datasets, or of runs that ended early."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from st_cluster_batches.data.pairs import Side
from st_cluster_batches.storage.chunks import ChunkedArray

logger = logging.getLogger(__name__)

_SAMPLE = 1024  # rows that are looked for in a dataset before all are


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
    def find(cls, indices: Iterable[Path], side: Side, keys: ChunkedArray, target: ChunkedArray) -> EarlierRows:
        """Look rows up by their keys; datasets that share no row of a sample cost a few milliseconds.

        Args:
            indices: Files that say which vectors and row keys belong together, by `PairVectors`.
            side: Queries or passages.
            keys: The keys of the rows.
            target: The vectors that are to be made, which are not looked at.
        """
        found = cls([], np.full(keys.n_rows, -1, dtype=np.int16), np.zeros(keys.n_rows, dtype=np.int64))
        own = np.concatenate([part for *_, part in keys])
        sample = own[np.unique(np.linspace(0, len(own) - 1, min(len(own), _SAMPLE)).astype(np.int64))]
        order: npt.NDArray[np.intp] | None = None
        for path in indices:
            index = json.loads(path.read_text(encoding="utf-8"))
            array = ChunkedArray.at(target.folder.parent / index["sides"].get(side, "none"), index["rows"])
            stored_keys = ChunkedArray.at(target.folder.parent / index["keys"], index["rows"])
            if array.folder == target.folder or not array.has_chunks() or not stored_keys.is_complete():
                continue
            stored = np.concatenate([part for *_, part in stored_keys])
            if not np.isin(sample, stored).any():
                continue
            order = np.argsort(own, kind="stable") if order is None else order
            found._add(array, stored, own, order)
        n_known = int(np.count_nonzero(found.array_of_row >= 0))
        if n_known:
            logger.info("The vectors of %d of %d rows are in the cache; others are embedded", n_known, len(own))
        return found

    def _add(
        self,
        array: ChunkedArray,
        stored: npt.NDArray[np.uint64],
        own: npt.NDArray[np.uint64],
        order: npt.NDArray[np.intp],
    ) -> None:
        """Note the rows that an array holds, in chunks that are as they were written, and that no other one holds."""
        by_key = np.argsort(stored, kind="stable")
        at = np.minimum(np.searchsorted(stored[by_key], own[order]), len(stored) - 1)
        place = np.empty(len(own), dtype=np.int64)
        place[order] = by_key[at]
        is_there = (stored[place] == own) & (self.array_of_row < 0)
        chunks = place // array.chunk_rows
        whole = [chunk for chunk in np.unique(chunks[is_there]).tolist() if array.holds(chunk)]
        is_there &= np.isin(chunks, whole)
        self.array_of_row[is_there] = len(self.arrays)
        self.place_of_row[is_there] = place[is_there]
        self.arrays.append(array)

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
