"""How well a model finds the passages of the pairs themselves: what a guide is worth, beside the model it guides."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.vectors import Vectors, take_by_key
from st_cluster_batches.data.pairs import Pairs, Side
from st_cluster_batches.data.texts import hash_rows
from st_cluster_batches.storage.cache import hash_values, read_json, write_atomically
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_QUERIES = 500  # of each source
_DOCUMENTS = 2_500  # of each source: half a minute for a small transformer on a laptop
_DEPTH = 10
_NOISE = 0.02  # of nDCG@10 on 500 queries, about one standard error
_SAME = 0.001  # as far as a model's own figures differ by how it is run
_LEAST = 50  # queries of a source that tell anything
_MEND = (
    "let a stronger model mask: attach_clusters(..., guide_model=...), attach --guide_model or guide_model: in a "
    "recipe; or train without: loss: mnrl"
)


@dataclass(frozen=True)
class Strength:
    """How well a model ranks the passages of a source for its queries.

    Args:
        ndcg_at_10: Mean over the queries.
        queries: How many there are.
        documents: Passages that are ranked, each query's own among them.
    """

    ndcg_at_10: float
    queries: int
    documents: int


def measure_strength(
    dataset: Dataset,
    text_columns: Sequence[str],
    sources: Sequence[str],
    source_of_row: npt.NDArray[np.integer[Any]],
    encoder: Encoder,
    cache: SharedCache,
) -> dict[str, Strength]:
    """Rank passages of some pairs by a model, source by source; nothing that the cache holds is embedded.

    Args:
        dataset: The rows.
        text_columns: Query, positive, then any negatives.
        sources: The names of the sources.
        source_of_row: (n,) the source of every row, as a position in `sources`.
        encoder: The model.
        cache: Where its vectors may lie, and where the result is kept.

    Returns:
        By source. All passages of equal queries are relevant, as are equal passages.
    """

    def measure() -> dict[str, Any]:
        found = {}
        for at, name in enumerate(sources):
            rows = np.random.default_rng(0).permutation(np.flatnonzero(source_of_row == at))[:_DOCUMENTS]
            table = dataset.with_format("arrow", columns=list(text_columns))[np.sort(rows)]
            found[name] = _measure_table(table, list(text_columns), encoder, cache)
        return found

    return {name: Strength(**one) for name, one in cache.processes.decide(measure).items()}


def measure_parts(parts: Iterable[Pairs], encoder: Encoder, cache: SharedCache) -> dict[str, Strength]:
    """Measure a model on every source of some datasets; see `measure_strength`."""
    found: dict[str, Strength] = {}
    for one in parts:
        found |= measure_strength(one.dataset, one.text_columns, one.sources, one.source_of_row, encoder, cache)
    return found


def warn_of_weak_guide(guide: Mapping[str, Strength], start: Mapping[str, Strength]) -> None:
    """Say where the model that is to be trained is better than its guide from the start, or no other.

    A mask takes away what the guide finds near. Where it knows less than the model, that is what the model has right;
    where it knows the same, it is what the model has yet to learn. Sources with few queries tell nothing.
    """
    ahead = {
        name: one.ndcg_at_10 - guide[name].ndcg_at_10
        for name, one in start.items()
        if name in guide and one.queries >= _LEAST
    }
    for name, one in start.items():
        if one.queries >= _LEAST:
            figure = one.ndcg_at_10
            logger.info("The model to be trained starts at nDCG@10 %.3f on the same passages of %s", figure, name)
    noise = {name: _NOISE * (_QUERIES / start[name].queries) ** 0.5 for name in ahead}
    weak = [name for name, gap in ahead.items() if gap > noise[name]]
    same = [name for name, gap in ahead.items() if -_SAME < gap <= noise[name]]
    shown = {
        name: f"{name!r}: nDCG@10 {guide[name].ndcg_at_10:.3f} against {start[name].ndcg_at_10:.3f} at the start, "
        f"{start[name].queries} queries"
        for name in ahead
    }
    if weak:
        logger.warning(
            "The guide is weaker than the model that it is to guide (%s). A weaker guide did harm where we measured "
            "it; %s",
            "; ".join(shown[name] for name in weak),
            _MEND,
        )
    if same:
        logger.warning(
            "The guide knows no more than the model that it is to guide (%s). A MiniLM that guided itself lost .6 %% "
            "by the mask, and half of what its clusters gained; %s",
            "; ".join(shown[name] for name in same),
            _MEND,
        )


def warn_of_own_guide(name: str) -> None:
    """Warn of a model that is to mask by its own vectors, as trials have found it to do harm."""
    logger.warning(
        "%s is to mask by its own vectors, which tell nothing of what it has yet to learn. Static models lost 1.5 %% "
        "with clusters of 32 so masked, which had brought 1.2 %%, and 2.3 %% masked by all-MiniLM-L6-v2. Let a "
        "stronger model mask: tune(..., guide_model=...), --guide_model; or leave guide out",
        name,
    )


def describe_strength(strengths: dict[str, Strength]) -> list[str]:
    """Return lines for a terminal; none of sources with few queries, which tell nothing."""
    return [
        f"The guide ranks the passages of {name}: nDCG@10 {one.ndcg_at_10:.3f} ({one.queries:,} queries among "
        f"{one.documents:,} passages)"
        for name, one in strengths.items()
        if one.queries >= _LEAST
    ]


def score_rankings(similarity: npt.NDArray[np.float32], is_relevant: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return (queries,) nDCG@10, with binary gains; zero for a query without a relevant document.

    Args:
        similarity: (queries, documents).
        is_relevant: (queries, documents).
    """
    depth = min(_DEPTH, similarity.shape[1])
    order = torch.from_numpy(similarity).topk(depth).indices.numpy()
    gains = np.take_along_axis(is_relevant, order, axis=1)
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(is_relevant.sum(axis=1), depth)]
    scores: npt.NDArray[np.float64] = np.divide(gains @ discounts, ideal, out=np.zeros(len(ideal)), where=ideal > 0)
    return scores


def _measure_table(table: pa.Table, columns: list[str], encoder: Encoder, cache: SharedCache) -> dict[str, Any]:
    """Measure a model on the rows of one source, unless that has been done."""
    keys = hash_rows(table, columns)
    path = cache.folder / f"strength-{hash_values(encoder.fingerprint, keys.tobytes().hex(), _QUERIES)}.json"
    if not path.exists():
        texts: dict[Side, list[str]] = {
            "query": table[columns[0]].to_pylist(),
            "passage": table[columns[1]].to_pylist(),
        }
        vectors = take_by_key(encoder, cache, keys, texts, f"Measuring {encoder.name}")
        found = _rank_pairs(table, columns, vectors)
        write_atomically(path, json.dumps(asdict(found)))
    loaded: dict[str, Any] = read_json(path)
    return loaded


def _rank_pairs(table: pa.Table, columns: list[str], vectors: dict[Side, Vectors]) -> Strength:
    queries, passages = (hash_rows(table, [column]) for column in columns[:2])
    _, first = np.unique(queries, return_index=True)
    chosen = np.sort(np.random.default_rng(0).permutation(first)[:_QUERIES])
    _, documents = np.unique(passages, return_index=True)
    # A passage is relevant to a query if any row has both texts.
    is_relevant = np.zeros((len(chosen), len(documents)), dtype=bool)
    place = np.searchsorted(passages[documents], passages)
    for at, row in enumerate(chosen.tolist()):
        is_relevant[at, place[queries == queries[row]]] = True
    similarity = vectors["query"][chosen] @ vectors["passage"][documents].T
    return Strength(float(score_rankings(similarity, is_relevant).mean()), len(chosen), len(documents))
