"""The vectors of pairs under one encoder: embedded once, on disk, found again by row number or by row key.

A folder holds the float16 vectors of one side of the pairs, named by the texts and the encoder. A small file beside it
lists which folders and row keys belong together, so that rows of a dataset that was selected, shuffled or joined since
find their vectors too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from st_cluster_batches.clusters.earlier_rows import EarlierRows, write_index
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.kmeans import widen
from st_cluster_batches.data.pairs import Key, Pairs, Side, sides_of
from st_cluster_batches.data.texts import find_wordless, hash_rows
from st_cluster_batches.storage.cache import hash_values
from st_cluster_batches.storage.chunks import ChunkedArray
from st_cluster_batches.storage.shared_cache import SharedCache

logger = logging.getLogger(__name__)

_SIDES = ("queries", "passages")
_MAX_WORDLESS = 10_000  # texts without a letter or digit that are tried before all others

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Renewal:
    """Vectors of which only some are made anew, and the others taken over.

    Args:
        last: The folders of the earlier vectors, of the sides of the key in order.
        is_fresh: (n,) whether a row is embedded anew.
    """

    last: tuple[str, ...]
    is_fresh: npt.NDArray[np.bool_]

    @property
    def digest(self) -> str:
        """Hash of what is taken over from where."""
        return hash_values(self.last, np.packbits(self.is_fresh).tobytes().hex())


@dataclass
class PairVectors:
    """The queries and passages of some pairs as unit vectors; a side is embedded when it is first read.

    All processes of a launch read the same sides in the same order, since they embed a side together.

    Args:
        pairs: The pairs, checked.
        encoder: The model.
        cache: Where the vectors lie, and who shares the work.
        renewal: Which vectors of an earlier state of the encoder are taken over; none by default.
        communities: (n,) the community of every row in its source, -1 for rows whose clusters are of k-means; None if
            all are.
    """

    pairs: Pairs
    encoder: Encoder
    cache: SharedCache
    renewal: Renewal | None = None
    communities: npt.NDArray[np.int32] | None = None
    _columns: dict[int, ChunkedArray] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, key: Key) -> list[str]:
        """Return what tells these vectors of a key from all others; nothing is embedded."""
        return [self._folder_name(_position(side)) for side in sides_of(key)]

    def embed(self, key: Key) -> None:
        """Embed the sides of a key, going on where an earlier call ended.

        Raises:
            ValueError: If a vector is not finite or zero, with its row and text.
            OSError: If the disk is full.
        """
        for side in sides_of(key):
            self._side(side)

    def list_rows(self, source: int) -> npt.NDArray[np.int64]:
        """Return the rows of a source, by its position, whose vectors are of the encoder as it is now; ascending."""
        is_wanted = self.pairs.source_of_row == source
        return np.flatnonzero(is_wanted if self.renewal is None else is_wanted & self.renewal.is_fresh)

    def read(self, key: Key, chunk: int) -> Vectors:
        """Return the (rows of the chunk, d) unit rows of a chunk."""
        return join_sides([widen(self._side(side).read(chunk)) for side in sides_of(key)])

    def take(self, key: Key, rows: Rows) -> Vectors:
        """Return the (n, d) unit rows of n rows, given by number in ascending order."""
        return join_sides([widen(self._side(side).take(rows)) for side in sides_of(key)])

    def count_views(self, key: Key, n_rows: int) -> int:
        """Return how many vectors k-means sees of n rows: with `symmetric` each once more, its sides exchanged."""
        return 2 * n_rows if key == "symmetric" else n_rows

    def take_sample(self, key: Key, rows: Rows) -> Vectors:
        """Return all vectors that k-means sees of some rows."""
        return self.take_views(key, rows, np.arange(self.count_views(key, len(rows))))

    def take_views(self, key: Key, rows: Rows, positions: Rows) -> Vectors:
        """Return some of the vectors that k-means sees of n rows: those of the rows, then those with sides exchanged.

        Args:
            key: The text that decides the clusters.
            rows: (n,) ascending row numbers.
            positions: (m,) ascending positions among these vectors.

        Returns:
            (m, d) unit rows.
        """
        end = int(np.searchsorted(positions, len(rows)))
        taken = self.take(key, rows[positions[:end]])
        if end == len(positions):
            return taken
        exchanged = self.take(key, rows[positions[end:] - len(rows)])
        return np.concatenate([taken, np.roll(exchanged, exchanged.shape[1] // 2, axis=1)])

    def _side(self, side: Side) -> ChunkedArray:
        return self.embed_column(_position(side))

    def embed_column(self, position: int) -> ChunkedArray:
        """Embed one column of the pairs, unless that has been done.

        Args:
            position: 0 for the queries, 1 for the positives, then the negatives, which are embedded as passages are.

        Returns:
            Their float16 vectors on disk, row by row.
        """
        if position not in self._columns:
            self._columns[position] = self._embed_column(position)
        return self._columns[position]

    def _embed_column(self, position: int) -> ChunkedArray:
        side: Side = "passage" if position else "query"
        column = self.pairs.text_columns[position]
        texts = self.pairs.dataset.with_format(None, columns=[column])
        array = ChunkedArray.at(self.cache.folder / self._folder_name(position), len(texts))

        earlier = None if self.renewal is None else self._take_over(self.renewal, position)

        def make(chunk: int) -> npt.NDArray[np.float16]:
            low, high = array.bounds(chunk)
            is_known, known = (np.zeros(high - low, dtype=bool), None) if earlier is None else earlier.take(low, high)
            rows = low + np.flatnonzero(~is_known)
            if not len(rows) and known is not None:
                return known
            own = texts[low:high][column] if known is None else texts[rows][column]
            # Bit for bit as by numpy, which takes far longer.
            made = torch.from_numpy(self.encoder.encode(side, own, rows.tolist())).half().numpy()
            if known is None:
                return made
            vectors = np.empty((high - low, made.shape[1]), dtype=np.float16)
            vectors[is_known], vectors[~is_known] = known, made
            return vectors

        # Not those that an earlier state of the model has made in part: they pass for nobody else's.
        is_shared = position < 2 and self.renewal is None
        if is_shared:
            self._register()  # before they are all there: rows that are found again need not be embedded again
        if not array.is_complete():
            self._check_wordless(side, column)
            if is_shared:
                earlier = self._find_earlier(position, array)
        array.fill(make, self.cache, f"Embedding {_SIDES[position] if position < 2 else column}")
        return array

    def _find_earlier(self, position: int, array: ChunkedArray) -> EarlierRows:
        """Find the vectors of queries or positives that other data have had embedded, and say how many there are."""
        side: Side = "passage" if position else "query"
        keys = self.row_hashes.slice(0, len(self))
        earlier = EarlierRows.find(self.cache.folder, self.encoder.fingerprint, side, keys, array)
        if n_known := int(np.count_nonzero(earlier.array_of_row >= 0)):
            n_others = len(self) - n_known
            logger.info(
                "The vectors of %s of %s %s (column %r) are in the cache%s",
                f"{n_known:,}",
                f"{len(self):,}",
                _SIDES[position],
                self.pairs.text_columns[position],
                f"; the other {n_others:,} are embedded" if n_others else "",
            )
        return earlier

    def _take_over(self, renewal: Renewal, position: int) -> EarlierRows:
        """Return the earlier vectors of the rows that are not to be embedded anew."""
        last = ChunkedArray.at(self.cache.folder / renewal.last[min(position, len(renewal.last) - 1)], len(self))
        if not last.is_complete():
            raise FileNotFoundError(
                f"{last.folder} lacks chunks of the refresh before; start anew with resume_from_checkpoint=None"
            )
        return EarlierRows([last], np.where(renewal.is_fresh, np.int16(-1), np.int16(0)), np.arange(len(self)))

    def _check_wordless(self, side: Side, column: str) -> None:
        """Find texts without a token before all others are embedded: their vectors are zero under many models."""
        rows = find_wordless(self.pairs.dataset, column, _MAX_WORDLESS)
        if not rows:
            return
        norms = self.encoder.measure(side, self.pairs.dataset.with_format(None).select(rows)[column][:])
        bad = [row for row, norm in zip(rows, norms, strict=True) if not (np.isfinite(norm) and norm > 0)]
        if bad:
            text = self.pairs.dataset.with_format(None)[bad[0]][column]
            without = f"dataset.filter(lambda row: any(map(str.isalnum, row[{column!r}])))"
            raise ValueError(
                f"Column {column!r} has no token for the encoder in {len(bad)} rows: {', '.join(map(str, bad[:10]))}. "
                f"Row {bad[0]} is {text[:80]!r}; its vector is zero. Remove these rows, as {without} does where they "
                "have neither letters nor digits, or take an encoder that knows their words"
            )

    def _folder_name(self, position: int) -> str:
        # By the texts of one column: another column of negatives embeds no query again.
        texts = self.pairs.text_hashes[self.pairs.text_columns[position]]
        renewed = [] if self.renewal is None else [self.renewal.digest]
        return f"vectors-{hash_values(self.encoder.fingerprint, 'passage' if position else 'query', texts, *renewed)}"

    @cached_property
    def row_hashes(self) -> ChunkedArray:
        """(n,) the hash of each row's texts, on disk; see `hash_rows`."""
        columns = self.pairs.text_columns
        texts = self.pairs.dataset.with_format("arrow", columns=columns)
        hashes = [self.pairs.text_hashes[column] for column in columns]
        array = ChunkedArray.at(self.cache.folder / f"row-keys-{hash_values(hashes)}", len(texts))
        array.fill(lambda chunk: hash_rows(texts[slice(*array.bounds(chunk))], columns), self.cache, "Hashing rows")
        return array

    def _register(self) -> None:
        """Write down which vectors and row keys belong together."""
        keys = self.row_hashes
        folders: dict[Side, str] = {"query": self._folder_name(0)}
        if len(self.pairs.text_columns) > 1:
            folders["passage"] = self._folder_name(1)
        self.cache.processes.once(
            lambda: write_index(self.cache.folder, self.encoder.fingerprint, keys, folders), None
        )


def take_by_key(
    encoder: Encoder,
    cache: SharedCache,
    row_keys: npt.NDArray[np.uint64],
    texts: Mapping[Side, Sequence[str]],
    description: str,
) -> dict[Side, Vectors]:
    """Return the vectors of some rows by their keys, and embed those that the cache does not hold.

    Args:
        encoder: The model.
        cache: Where vectors may lie, from datasets that these rows have been in.
        row_keys: (n,) keys, by `hash_rows`.
        texts: n queries, n passages, or both.
        description: What the progress bar says.

    Returns:
        (n, d) unit rows by side.
    """
    found: dict[Side, Vectors] = {}
    for side, own in texts.items():
        earlier = EarlierRows.find(cache.folder, encoder.fingerprint, side, row_keys)
        is_known, known = earlier.take(0, len(row_keys))
        if known is not None and is_known.all():
            found[side] = widen(known)
            continue
        rows = np.flatnonzero(~is_known).tolist()
        made = encoder.encode_many(side, [own[at] for at in rows], description, cache.show_progress_bar, rows)
        found[side] = np.empty((len(row_keys), made.shape[1]), dtype=np.float32)
        found[side][~is_known] = made
        if known is not None:
            found[side][is_known] = widen(known)
    return found


def join_sides(sides: Sequence[Vectors]) -> Vectors:
    """Join the unit vectors of queries and passages row by row to unit vectors again, as CDE does."""
    if len(sides) == 1:
        return sides[0]
    joined: Vectors = np.concatenate(sides, axis=1)
    joined /= np.sqrt(np.float32(len(sides)))
    return joined


def _position(side: Side) -> int:
    return ("query", "passage").index(side)
