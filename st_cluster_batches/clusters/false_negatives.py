"""The keys that a row shares with the rows that would be its false negatives.

Keys are hashes of texts, not numbers that are counted: rows that were labelled apart and joined later share a key
where they share a text. Two rows conflict if they share the query or the positive, if the positive of one is an
explicit negative of the other, or if their passages are near-duplicates. To share an explicit negative is no conflict:
a key with a minus stands for the text of an explicit negative, and two of these may meet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from st_cluster_batches.clusters.near_duplicates import find_near_duplicates
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.duplicates import combine_hashes, hash_column, hash_folded
from st_cluster_batches.data.pairs import Pairs

logger = logging.getLogger(__name__)

Keys = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

# Told apart, since a query that equals another row's passage is no conflict.
_QUERY, _PASSAGE, _NEAR = (np.uint64(salt) for salt in (1, 2, 3))
# Batch sizes for which `attach` counts the rows that cannot but meet a false negative; the share worth a warning.
_BATCH_SIZES = (128, 1024)
_WORTH_A_WARNING = 0.01


@dataclass(frozen=True)
class FalseNegativeKeys:
    """The keys of n rows.

    Args:
        columns: (n,) hashes of the query, of the positive, and of every explicit negative.
        near_rows: Rows with a near-duplicate passage, ascending, once for each key.
        near_keys: The keys that they share with these.
    """

    columns: list[Hashes]
    near_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    near_keys: Keys = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.columns[0])

    def to_arrow(self, low: int, high: int) -> pa.ListArray:
        """Return the keys of some rows as lists."""
        first, last = np.searchsorted(self.near_rows, [low, high])
        n_near = np.bincount(self.near_rows[first:last] - low, minlength=high - low)
        ends = np.cumsum(len(self.columns) + n_near)
        values = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
        starts = ends - len(self.columns) - n_near
        is_near = np.ones(len(values), dtype=bool)
        for at, keys in enumerate(_salt([column[low:high] for column in self.columns])):
            values[starts + at] = keys
            is_near[starts + at] = False
        values[is_near] = self.near_keys[first:last]
        return pa.ListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int32), values)


def find_keys(
    vectors: PairVectors, clusters: npt.NDArray[np.int64] | None, threshold: float | None
) -> tuple[FalseNegativeKeys, dict[str, Any]]:
    """Find the keys of all rows.

    Args:
        vectors: The pairs; their passages have been embedded if there is a threshold.
        clusters: (n,) the cluster of every row, within which near-duplicates are searched; None without a threshold.
        threshold: Similarity from which on passages count as near-duplicates; None for equal texts alone.

    Returns:
        The keys, and a report on the rows that share them.
    """
    keys, report = hash_pairs(vectors.pairs, vectors.cache.show_progress_bar)
    if clusters is not None and threshold is not None:
        near = find_near_duplicates(vectors, keys.columns[1], clusters, threshold)
        rows, hashes = near.sort()
        keys = FalseNegativeKeys(keys.columns, rows, _to_keys(hashes, _NEAR))
        report |= {"near_duplicate_threshold": threshold, "near_duplicate_pairs": near.n_pairs}
    return keys, report


def hash_pairs(pairs: Pairs, show_progress_bar: bool) -> tuple[FalseNegativeKeys, dict[str, Any]]:
    """Find the keys that rows share by equal texts, which takes no vectors; and a report on these rows."""
    columns = [hash_column(pairs.dataset, name, show_progress_bar) for name in pairs.text_columns]
    return FalseNegativeKeys(columns), _describe(pairs, columns)


def hash_keys(columns: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the keys of some rows of a stream.

    Args:
        columns: n queries, n positives, then n texts of every further column.
    """
    rows = zip(*(column.tolist() for column in _salt([hash_folded(texts) for texts in columns])), strict=True)
    return [list(row) for row in rows]


def tell_of_keys(pairs: Pairs, report: dict[str, Any]) -> None:
    """Warn where rows share so few texts that many cannot but meet a false negative; say where there are no keys."""
    if pairs.targets:
        logger.info(
            "The pairs have %s: their losses take no in-batch negatives, so no false negatives are kept apart",
            ", ".join(pairs.targets),
        )
        return
    if contradicted := report["own_positive_is_negative"]:
        positive, *negatives = pairs.text_columns[1:]
        logger.warning(
            "%d of the %d rows%s have their own positive as an explicit negative too, which teaches that it answers "
            "the query and does not. Take them out: dataset.filter(lambda row: row[%r] not in [row[name] for name in "
            "%r])",
            contradicted,
            len(pairs),
            f" of {pairs.name!r}" if pairs.name else "",
            positive,
            negatives,
        )
    meetings = {size: report["unavoidable"].get(str(size), 0) for size in _BATCH_SIZES}
    if max(meetings.values()) <= _WORTH_A_WARNING * len(pairs):
        return
    largest = report["largest"]
    text = pairs.dataset.with_format(None)[largest["row"]][largest["column"]]
    shares = ", ".join(f"{count:,} in batches of {size:,}" for size, count in meetings.items())
    # In batches of the smaller size hardly any meet: whoever trains with larger ones is told when they are planned.
    level = logging.WARNING if meetings[min(_BATCH_SIZES)] > _WORTH_A_WARNING * len(pairs) else logging.INFO
    logger.log(
        level,
        "Of the %d rows%s at least these will meet a false negative, whatever the order: %s. The %s %r alone stands "
        "in %d rows. Smaller batches help, and so does a loss that masks false negatives, such as "
        "the guided ones (attach with guide=True)",
        len(pairs),
        f" of {pairs.name!r}" if pairs.name else "",
        shares,
        largest["column"],
        text[:100],
        largest["rows"],
    )


def _salt(columns: Sequence[Hashes]) -> list[Keys]:
    """Turn hashes of texts into keys that know a query from a passage."""
    query, *passages = columns
    keys = [_to_keys(query, _QUERY), *(_to_keys(one, _PASSAGE) for one in passages)]
    return [*keys[:2], *(-one for one in keys[2:])]


def _to_keys(hashes: Hashes, salt: np.uint64) -> Keys:
    """Turn hashes into positive numbers: 63 bits, and never 0."""
    keys: Keys = np.maximum(combine_hashes(hashes, salt) >> np.uint64(1), np.uint64(1)).astype(np.int64)
    return keys


def _describe(pairs: Pairs, columns: Sequence[Hashes]) -> dict[str, Any]:
    """Count the rows that share a query or a positive, and those that cannot but meet one another."""
    unavoidable = dict.fromkeys(map(str, _BATCH_SIZES), 0)
    largest: dict[str, Any] = {"rows": 1, "row": 0, "column": pairs.text_columns[0]}
    shared: dict[str, int] = {}
    for name, hashes in zip(pairs.text_columns, columns[:2], strict=False):
        ordered = np.sort(hashes)
        # Of texts that stand once, nothing is kept.
        repeated, counts = np.unique(ordered[1:][ordered[1:] == ordered[:-1]], return_counts=True)
        counts += 1
        shared[name] = int(counts.sum())
        for size in _BATCH_SIZES:
            meeting = int(np.maximum(counts - -(-len(pairs) // size), 0).sum())
            unavoidable[str(size)] = max(unavoidable[str(size)], meeting)  # a row may share both texts
        if len(counts) and counts.max() > largest["rows"]:
            row = int((hashes == repeated[counts.argmax()]).argmax())
            largest = {"rows": int(counts.max()), "row": row, "column": name}
    is_contradicted = np.zeros(len(pairs), dtype=bool)
    for hashes in columns[2:]:
        is_contradicted |= hashes == columns[1]
    return {
        "rows_that_share": shared,
        "largest": largest,
        "unavoidable": unavoidable,
        "own_positive_is_negative": int(is_contradicted.sum()),
    }
