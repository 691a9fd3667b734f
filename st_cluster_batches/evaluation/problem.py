"""One source made ready for trials: what a small model trains on, and what it is measured on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import xxhash

from st_cluster_batches.clusters.choice import Method
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.false_negatives import hash_keys
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.columns import FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.collection import Collection
from st_cluster_batches.data.duplicates import fold_text
from st_cluster_batches.data.holdout import hold_out
from st_cluster_batches.data.pairs import Key, PairOptions, Pairs
from st_cluster_batches.evaluation.proxy import Judged, rank_documents
from st_cluster_batches.evaluation.start import Start, Texts
from st_cluster_batches.plans.keys import Keys, read_keys
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# A held-out query is worth as much to the noise as a seed costs in time. The rate needs fewer: its curve is steep.
_MEASURED_QUERIES, _TUNED_QUERIES = 1000, 500
_LEAST_QUERIES = 30  # with fewer no difference that batches make could be told from noise
_ENOUGH_ROWS = 340  # of which a tenth, and a tenth of what is left, are as many
TOO_FEW_QUERIES = (
    f"fewer than {_LEAST_QUERIES} queries can be held out twice with all that repeats them, a tenth of the rows each "
    f"time ({_ENOUGH_ROWS} rows do where none repeat)"
)
_ROW = "row of the source"


Sides = tuple[npt.NDArray[np.float16], npt.NDArray[np.float16]]  # of queries and of passages


@dataclass(frozen=True)
class Problem:
    """What trials of a source need; numbers alone, where static models are trained.

    Args:
        start: The model that every trial starts from.
        queries: Training queries.
        passages: Training passages, row by row.
        documents: What held-out queries are looked up in: held-out passages, and training passages of the source.
        tuned_on: Held-out queries that the learning rate is chosen on.
        measured_on: Other held-out queries, of which no rate knows anything.
        vectors: (n, d) unit rows of the training pairs, to be clustered.
        sides: (n, d) unit rows of queries and of passages under the same encoder, to cut communities from; or None.
        guide: (n, d) unit rows of queries and of passages, to mask by; None without a guide.
        keys: The false negatives that are known from texts.
        guide_ndcg: Mean nDCG@10 of the guide itself on `tuned_on`, and on `measured_on`; or None.
        sample: (2 n, d) what k-means sees instead of `vectors`, of a symmetric key; or None.
    """

    start: Start
    queries: Texts
    passages: Texts
    documents: Texts
    tuned_on: Judged
    measured_on: Judged
    vectors: npt.NDArray[np.float32]
    sides: Sides | None
    guide: Sides | None
    keys: Keys | None
    guide_ndcg: tuple[float, float] | None
    sample: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.queries)

    def digest(self, method: Method = "kmeans") -> str:
        """Hash all of it that batches of a method come from, so that one is not run again for what another needs."""
        state = xxhash.xxh3_128()
        no_vectors = np.empty((0, 0), dtype=np.float32)
        is_cut = method == "communities"
        own = replace(self, vectors=no_vectors, sample=None) if is_cut else replace(self, sides=None)
        for part in _list_parts(own):
            state.update(part)
        return state.hexdigest()


def _list_parts(value: Any) -> Iterator[bytes]:
    """Yield the arrays and texts of a dataclass, at any depth, as bytes that tell them from others."""
    if isinstance(value, Start):
        yield value.fingerprint.encode()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, str):
        yield f"{len(value)} {value}".encode("utf-8", "surrogatepass")
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _list_parts(one)
    elif is_dataclass(value):
        for one in fields(value):
            yield from _list_parts(getattr(value, one.name))


def prepare_problem(
    name: str,
    rows: Dataset,
    encoder: Encoder,
    key: Key,
    guide: Encoder | None,
    start: Start,
    cache: SharedCache,
    seed: int = 0,
    warns: bool = True,
    has_communities: bool = False,
) -> Problem | None:
    """Hold queries out of the pairs of a source, embed and tokenise what is left.

    Args:
        name: The source.
        rows: Its pairs: a column of queries, and one of passages.
        encoder: The model whose vectors are clustered, and perhaps mask.
        key: The text that decides the cluster.
        guide: The model whose vectors mask; None for no masks.
        start: The model that trials start from.
        cache: Where vectors are kept.
        seed: Seed of what is held out.
        warns: Whether to warn of a source that is too small; callers with many say it once for all.
        has_communities: Whether to embed both sides by the encoder, to cut communities from.

    Returns:
        The problem; None where the source is too small to hold enough out.
    """
    query, passage = rows.column_names
    held_out = _hold_out_twice(name, rows, start.n_documents, seed)
    if held_out is None:
        if warns:
            logger.warning("Source %r with %d rows: %s. It is not tried", name, len(rows), TOO_FEW_QUERIES)
        return None
    left, measured_on, tuned_on = held_out
    pairs = Pairs.prepare("", rows, PairOptions(None, columns=(query, passage)), False)
    vectors = PairVectors(pairs, encoder, cache)
    trained = np.asarray(left[_ROW][:], dtype=np.int64)
    documents = list_documents(measured_on, tuned_on)
    texts = list(documents.values())
    judged = [judge_collection(one, documents, start) for one in (tuned_on, measured_on)]
    masking, guide_ndcg = None, None
    if guide is not None:
        masking = _take_sides(PairVectors(pairs, guide, cache))
        asked = [list(one.queries.values()) for one in (tuned_on, measured_on)]
        tuned, measured = (_score_guide(masking, rows, *one, texts) for one in zip(asked, judged, strict=True))
        masking, guide_ndcg = (masking[0][trained], masking[1][trained]), (tuned, measured)
    keys = pa.array(hash_keys([left[query][:], left[passage][:]]), pa.list_(pa.int64()))
    return Problem(
        start=start.without_tokenizer(),
        queries=start.tokenize(left[query]),
        passages=start.tokenize(left[passage]),
        documents=start.tokenize(texts),
        tuned_on=judged[0],
        measured_on=judged[1],
        vectors=vectors.take(key, trained),
        sides=_take_sides(vectors, trained) if has_communities else None,
        guide=masking,
        keys=read_keys(pa.chunked_array([keys]), FALSE_NEGATIVE_KEYS, True),
        guide_ndcg=guide_ndcg,
        sample=vectors.take_sample(key, trained) if key == "symmetric" else None,
    )


def _hold_out_twice(
    name: str, rows: Dataset, n_documents: int, seed: int
) -> tuple[Dataset, Collection, Collection] | None:
    """Return numbered rows to train on, and queries to measure and to tune on; None if these are too few."""
    columns = list(rows.column_names)
    numbered = rows.add_column(_ROW, np.arange(len(rows)))
    if SOURCE not in columns:
        numbered = numbered.add_column(SOURCE, [name] * len(rows))  # for messages
    left, measured_on = hold_out(numbered, _MEASURED_QUERIES, n_documents, seed, columns, warns=False)
    left, tuned_on = hold_out(left, _TUNED_QUERIES, n_documents, seed, columns, warns=False)
    collections = [*measured_on.values(), *tuned_on.values()]  # one each, where anything could be held out
    if len(collections) < 2 or min(len(one.queries) for one in collections) < _LEAST_QUERIES:
        return None
    return left, *collections


def _take_sides(vectors: PairVectors, rows: npt.NDArray[np.int64] | None = None) -> Sides:
    """Return the vectors of some queries and of their passages; of all rows by default."""
    rows = np.arange(len(vectors)) if rows is None else rows
    return vectors.take("query", rows).astype(np.float16), vectors.take("passage", rows).astype(np.float16)


def _score_guide(sides: Sides, rows: Dataset, asked: list[str], judged: Judged, documents: list[str]) -> float:
    """Return the mean nDCG@10 of the guide itself, by its vectors of all queries and passages of the source."""
    texts = zip(sides, rows.column_names, (asked, documents), strict=True)
    queries, found = (torch.from_numpy(side[_find(rows[name][:], own)]).float() for side, name, own in texts)
    return float(rank_documents(queries, found, judged).mean())


def list_documents(*collections: Collection) -> dict[str, str]:
    """Return the documents of collections by what counts as equal of them; of equal ones the first."""
    documents: dict[str, str] = {}
    for _, text in [document for one in collections for document in one.corpus.values()]:
        documents.setdefault(fold_text(text), text)
    return documents


def judge_collection(collection: Collection, documents: Mapping[str, str], start: Start) -> Judged:
    """Tokenise the queries of a collection, and find their answers among documents, from `list_documents`."""
    position = {folded: at for at, folded in enumerate(documents)}
    found = [
        (at, position[fold_text(collection.corpus[document][1])])
        for at, query in enumerate(collection.queries)
        for document in collection.qrels[query]
    ]
    rows, answers = np.asarray(found, dtype=np.int64).T
    return Judged(start.tokenize(collection.queries.values()), rows, answers)


def _find(column: Sequence[str], texts: Sequence[str]) -> list[int]:
    """Return a row that holds each text."""
    row_of = {text: at for at, text in enumerate(column)}
    return [row_of[text] for text in texts]
