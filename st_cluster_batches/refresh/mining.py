"""Explicit negatives of the model as it is now, from the vectors of a refresh, as data for a next run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.sparse import csc_array, csr_array

from st_cluster_batches.clusters.false_negatives import hash_keys, hash_pairs
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.columns import FALSE_NEGATIVE_KEYS
from st_cluster_batches.data.pairs import Pairs
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.refresh.schedule import RefreshedSampler, RefreshOptions
from st_cluster_batches.storage.cache import hash_values, write_whole
from st_cluster_batches.storage.chunks import ChunkedArray

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

NEGATIVES_FOLDER = "negatives"

_PASSAGES = 8192  # compared with a chunk of queries at once: 128 MiB of similarities
_ROWS = 10_000  # written at once

Integers = npt.NDArray[np.int64]


def mine_negatives(
    vectors: PairVectors, sampler: RefreshedSampler, refresh: RefreshOptions, folder: Path
) -> dict[str, int]:
    """Find explicit negatives with the vectors of a refresh, together with the other processes, and write them.

    Args:
        vectors: The pairs, under the model as it is now.
        sampler: The sampler of their dataset.
        refresh: How many negatives, and outside which margin.
        folder: Where to.

    Returns:
        How many rows were written and left out; nothing on processes other than the first.
    """
    mined = find_negatives(vectors, sampler.plan.labels.keys, refresh.mine, refresh.mine_margin)
    labels = [name for name in sampler.hidden_columns if name in sampler.dataset.column_names]
    write = partial(write_negatives, vectors.pairs, sampler.dataset, labels, mined, folder)
    nothing: dict[str, int] = {}
    return vectors.cache.processes.once(write, nothing)


def find_negatives(vectors: PairVectors, keys: Keys | None, n_negatives: int, margin: float) -> ChunkedArray:
    """Find the passages nearest to each query that are not known to answer it, as NV-Retriever (arXiv 2407.15831).

    sentence-transformers' `mine_hard_negatives` does this for a model at rest: it embeds by itself, and knows of no
    false negatives but the positives of an equal query. Every query is compared with every passage, in pieces and by
    all processes: memory does not grow with the rows, time does with their square.

    Args:
        vectors: The pairs, under the model as it is now.
        keys: The keys of rows that are false negatives of one another; equal texts are known without.
        n_negatives: Passages for each query.
        margin: Share of the positive's cosine similarity by which a negative is to stay below it.

    Returns:
        (n, n_negatives) int32 rows whose passages these are, the nearest first; -1 where there are no more.
    """
    name = hash_values(*vectors.name("query"), *vectors.name("passage"), n_negatives, margin)
    array = ChunkedArray.at(vectors.cache.folder / f"mined-{name}", len(vectors))
    holders, answers, rows = _link_answers(vectors.pairs, keys)
    vectors.embed("query")
    vectors.embed("passage")

    def make(chunk: int) -> npt.NDArray[np.int32]:
        low, high = array.bounds(chunk)
        places = _search(vectors, low, high, rows, (holders[low:high] @ answers).tocsc(), n_negatives, margin)
        return np.where(places < 0, -1, rows[places]).astype(np.int32)

    array.fill(make, vectors.cache, "Mining negatives")
    return array


def _search(
    vectors: PairVectors, low: int, high: int, rows: Integers, known: csc_array, n_negatives: int, margin: float
) -> Integers:
    """Return the (high - low, n_negatives) places, among rows with different passages, of the nearest allowed ones.

    By matrix products on the model's device, since FAISS cannot leave out other passages for each query.

    Args:
        vectors: The pairs.
        low: The first query.
        high: The one after the last.
        rows: The rows that hold the passages.
        known: (high - low, passages) nonzero where a passage is no negative of a query.
        n_negatives: Passages for each query.
        margin: As for `find_negatives`.
    """
    own, device = np.arange(low, high), vectors.encoder.model.device
    queries, positives = (torch.from_numpy(vectors.take(side, own)).to(device) for side in ("query", "passage"))
    similarity = (queries * positives).sum(dim=1)
    most = (similarity - margin * similarity.abs())[:, None]
    nearest = torch.full((high - low, n_negatives), -torch.inf, device=device)
    found = torch.full((high - low, n_negatives), -1, device=device)
    for start in range(0, len(rows), _PASSAGES):
        passages = torch.from_numpy(vectors.take("passage", rows[start : start + _PASSAGES])).to(device)
        near = queries @ passages.T
        near[near > most] = -torch.inf
        left_out = (torch.from_numpy(at.astype(np.int64)) for at in known[:, start : start + _PASSAGES].nonzero())
        near[tuple(left_out)] = -torch.inf
        near, at = near.topk(min(n_negatives, near.shape[1]))
        nearest, order = torch.cat([nearest, near], dim=1).topk(n_negatives)
        found = torch.cat([found, at + start], dim=1).gather(1, order)
    places: Integers = torch.where(nearest.isinf(), -1, found).cpu().numpy()
    return places


def _link_answers(pairs: Pairs, keys: Keys | None) -> tuple[csr_array, csr_array, Integers]:
    """Link rows to the passages that are no negatives of theirs, by way of the keys that they share.

    Args:
        pairs: The pairs, whose equal texts are keys.
        keys: Further ones.

    Returns:
        (n, keys) which row holds which key; (keys, passages) which keys a different passage is held by, as a positive;
        and the first rows of the different passages, ascending.
    """
    columns = hash_pairs(pairs, False)[0].columns
    first, number = np.unique(columns[1], return_index=True, return_inverse=True)[1:]
    order = np.argsort(first)
    passage_of_row = np.argsort(order)[number]
    # Hashes of queries and passages are told apart; a negative of the row's own is known like its positive.
    texts = [columns[0], *(one ^ np.uint64(1 << 63) for one in columns[1:])]
    every = np.arange(len(pairs))
    held = np.unique(np.concatenate(texts), return_inverse=True)[1]
    rows = np.tile(every, len(texts))
    is_positive = np.arange(len(held)) < 2 * len(pairs)
    if keys is not None:
        negative = np.zeros(len(keys.rows), dtype=bool) if keys.is_negative is None else keys.is_negative
        held = np.concatenate([held, held.max() + 1 + keys.keys.astype(np.int64)])
        rows, is_positive = np.concatenate([rows, keys.rows]), np.concatenate([is_positive, ~negative])
    ones, n_keys = np.ones(len(held), dtype=np.int32), int(held.max()) + 1
    holders = csr_array((ones, (rows, held)), shape=(len(pairs), n_keys))
    entries = ones[is_positive], (held[is_positive], passage_of_row[rows[is_positive]])
    return holders, csr_array(entries, shape=(n_keys, len(first))), first[order]


def write_negatives(
    pairs: Pairs, given: Dataset, labels: Sequence[str], mined: ChunkedArray, folder: Path
) -> dict[str, int]:
    """Write the rows with their negatives as Parquet, which `load_dataset` and a recipe's `train_data` read.

    The columns are query, positive, any negatives, the new ones, then labels. Row keys are left out, since with other
    texts a row is another one. Rows with too few negatives are left out, with a warning: no batch takes a null.

    Args:
        pairs: The pairs.
        given: The dataset that is trained on.
        labels: Its label columns that are kept.
        mined: From `find_negatives`.
        folder: Where to.

    Returns:
        How many rows the file has, and how many were left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, n_rows = folder / "train.parquet", 0
    with write_whole(path) as temporary:
        tables = _join(pairs, given.with_format(None).select_columns(list(labels)).with_format("arrow"), mined)
        first = next(tables)
        with pq.ParquetWriter(temporary, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)
                n_rows += len(table)
    if n_rows < len(pairs):
        logger.warning(
            "%d of %d rows have fewer than mine=%d negatives outside mine_margin, and are not in %s. A lower mine= or "
            "mine_margin= keeps more of them",
            len(pairs) - n_rows,
            len(pairs),
            mined.slice(0, 1).shape[1],
            path,
        )
    return {"rows": n_rows, "left_out": len(pairs) - n_rows}


def _join(pairs: Pairs, labels: Dataset, mined: ChunkedArray) -> Iterator[pa.Table]:
    """Yield the rows that have negatives enough, some thousand at once."""
    texts = pairs.dataset.with_format("arrow", columns=pairs.text_columns)
    passages = texts.select_columns(pairs.text_columns[1]).with_format("arrow")
    taken = {*pairs.text_columns, *labels.column_names}
    for low in range(0, len(pairs), _ROWS):
        negatives = mined.slice(low, min(low + _ROWS, len(pairs)))
        kept = np.flatnonzero((negatives >= 0).all(axis=1))
        table = texts[low + kept]
        free = (name for at in count(1) if (name := f"negative_{at}") not in taken)
        for column in negatives[kept].T:
            table = table.append_column(next(free), passages[column][pairs.text_columns[1]])
        new = hash_keys([table[at].to_pylist() for at in (0, 1, *range(len(pairs.text_columns), table.num_columns))])
        for name in labels.column_names:
            column = labels[low + kept][name]
            if name == FALSE_NEGATIVE_KEYS:
                lists = zip(column.to_pylist(), new, strict=True)
                column = pa.array([[*(own or []), *more[2:]] for own, more in lists], type=column.type)
            table = table.append_column(name, column)
        yield table
