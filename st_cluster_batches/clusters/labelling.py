"""From embedded pairs and centroids to label columns, chunk by chunk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xxhash

from st_cluster_batches.clusters.encoder import Encoder, Key, KeyVectors, embed_side, sides_of
from st_cluster_batches.clusters.kmeans import Centroids, NearestCentroid, require_faiss
from st_cluster_batches.clusters.near_duplicates import find_near_duplicates
from st_cluster_batches.data.pairs import Pairs, write_labels
from st_cluster_batches.data.texts import group_false_negatives
from st_cluster_batches.storage.cache import hash_values, read_seal, seal
from st_cluster_batches.storage.chunks import ChunkedArray
from st_cluster_batches.storage.processes import Crew

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_LABEL_VERSION = 4  # to be raised by any change here that changes labels or what is reported of them
_BLOCK = 1 << 20
# A group that would be in every global batch of so many rows, and is no handful, is warned of.
_BATCH, _FEW_ROWS = 512, 10
_NEAREST = np.dtype([("cluster", np.int32), ("similarity", np.float32)])


def embed(part: Pairs, key: Key, encoder: Encoder, crew: Crew) -> KeyVectors:
    """Embed the texts of a key; this process's share is complete then."""
    return KeyVectors(tuple(embed_side(part, side, encoder, crew) for side in sides_of(key)))


def assign_rows(part: Pairs, vectors: KeyVectors, centroids: Mapping[str, Centroids], crew: Crew) -> ChunkedArray:
    """Assign every row to the most similar centroid of its source.

    Args:
        part: The pairs.
        vectors: Their vectors; this process's share is enough.
        centroids: Centroids of every source of the pairs.
        crew: The processes that share the work.

    Returns:
        (n,) rows of `cluster`, numbered from 0 in each source, and `similarity`; this process's share is complete.
    """
    own = [centroids[name] for name in part.sources]
    indexes = [NearestCentroid(one) for one in own]
    made_from = [*(side.folder.name for side in vectors.sides), part.data_hash, *map(digest_array, own)]
    array = ChunkedArray.at(crew.cache / f"nearest-{hash_values(made_from)}", len(part))

    def make(chunk: int) -> npt.NDArray[Any]:
        low, high = array.bounds(chunk)
        rows, codes = vectors.read(chunk), part.source_of_row[low:high]
        nearest = np.empty(high - low, dtype=_NEAREST)
        for code in np.unique(codes):
            at = np.flatnonzero(codes == code)
            nearest["cluster"][at], nearest["similarity"][at] = indexes[code].find(rows[at])
        return nearest

    array.fill(make, crew, "Assigning")
    return array


def label_parts(
    parts: list[Pairs],
    centroids: Mapping[str, Centroids],
    key: Key,
    encoder: Encoder,
    threshold: float | None,
    crew: Crew,
) -> tuple[list[Dataset], dict[str, Any]]:
    """Attach clusters and false-negative groups; a second call with the same inputs reads them from the cache.

    Args:
        parts: The pairs, checked.
        centroids: Centroids by source, in the order in which clusters are numbered.
        key: The text that decides the cluster.
        encoder: The model that the centroids were made with.
        threshold: Similarity from which on passages count as nearly equal; None for equal texts alone.
        crew: The processes that share the work.

    Returns:
        The labelled datasets, and a report on the false-negative groups.
    """
    hashes = [part.data_hash for part in parts], {source: digest_array(one) for source, one in centroids.items()}
    faiss_version = require_faiss().__version__
    name = f"labels-{hash_values(*hashes, encoder.digest, key, threshold, faiss_version, _LABEL_VERSION)}"
    paths = [crew.cache / f"{name}-{at}.arrow" for at in range(len(parts))]
    seal_path = crew.cache / f"{name}.json"
    if (report := read_seal(paths, seal_path)) is None:
        numbers = _number_clusters(centroids)
        reports, first_group, assigned = {}, 0, []
        for part, path in zip(parts, paths, strict=True):
            nearest = assign_rows(part, embed(part, key, encoder, crew), centroids, crew)
            assigned.append(nearest)
            passages = None if threshold is None else embed_side(part, "passage", encoder, crew)
            if crew.is_main:
                clusters = _read_clusters(part, nearest, numbers, crew)
                groups, one = _group(part, clusters, passages, threshold, crew)
                write_labels(path, clusters, groups + np.int32(first_group))
                first_group += int(groups.max()) + 1
                reports[part.name or "all"] = one

        def finish() -> None:
            # A mark of its own, since fitting has left marks of the same arrays, which tell of no share of now. And
            # before the seal: a process that came late and found it would skip its share, and never leave its mark.
            crew.wait_for(f"assigned {name}")
            seal(paths, seal_path, reports)
            for nearest in assigned:
                nearest.remove()

        crew.finish(f"assigned {name}")
        crew.once("labels", finish)
        report = read_seal(paths, seal_path)
        assert report is not None, "labels that were just written are there"
    else:
        logger.info("Labels of the same texts, encoder and centroids are in the cache: %s", seal_path)
    if crew.is_main:
        _warn_of_large_groups(parts, list(report.values()))
    return [part.join(path) for part, path in zip(parts, paths, strict=True)], report


def digest_array(array: Centroids) -> str:
    """Hash the values of an array."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(array).data)


def _number_clusters(centroids: Mapping[str, Centroids]) -> dict[str, int]:
    """Return the number of every source's first cluster."""
    ends = np.cumsum([len(one) for one in centroids.values()]).tolist()
    return dict(zip(centroids, [0, *ends[:-1]], strict=True))


def _read_clusters(
    part: Pairs, nearest: ChunkedArray, first_cluster: Mapping[str, int], crew: Crew
) -> npt.NDArray[np.int32]:
    """Return the (n,) clusters of all rows, with numbers that are unique across sources."""
    nearest.wait(crew)
    offsets = np.asarray([first_cluster[name] for name in part.sources], dtype=np.int32)
    clusters = np.empty(len(part), dtype=np.int32)
    for low, high, rows in nearest:
        clusters[low:high] = rows["cluster"] + offsets[part.source_of_row[low:high]]
    return clusters


def _group(
    part: Pairs, clusters: npt.NDArray[np.int32], passages: ChunkedArray | None, threshold: float | None, crew: Crew
) -> tuple[npt.NDArray[np.int32], dict[str, Any]]:
    """Return the (n,) false-negative groups of all rows, and how many there are of every size."""
    near = None
    if passages is not None and threshold is not None:
        passages.wait(crew)
        near = find_near_duplicates(part, passages, clusters, threshold, crew)
    links = None if near is None else near.links
    groups = group_false_negatives(part.dataset, part.text_columns, crew.show_progress_bar, links)
    sizes = np.zeros(int(groups.max()) + 1, dtype=np.int32)
    for low in range(0, len(groups), _BLOCK):
        np.add.at(sizes, groups[low : low + _BLOCK], 1)
    values, counts = np.unique(sizes, return_counts=True)
    report: dict[str, Any] = {
        "groups_by_size": {str(size): int(count) for size, count in zip(values, counts, strict=True)}
    }
    if near is not None:
        largest = int(sizes.argmax())
        report |= {
            "near_duplicate_threshold": threshold,
            "near_duplicate_pairs": near.n_pairs,
            "largest_group": {"rows": int(sizes[largest]), "first_row": int((groups == largest).argmax())},
        }
    return groups, report


def _warn_of_large_groups(parts: list[Pairs], reports: list[dict[str, Any]]) -> None:
    """Warn of groups that have more rows than there will be batches: links chain, so a low threshold makes such."""
    for part, report in zip(parts, reports, strict=True):
        n_rows, largest = len(part), report.get("largest_group", {"rows": 1})
        if largest["rows"] > max(n_rows / _BATCH, _FEW_ROWS):
            passage = part.dataset.with_format(None)[largest["first_row"]][part.text_columns[1]]
            logger.warning(
                "The largest false-negative group holds %d of %d rows, such as %r. With global batches of more than "
                "%d rows every batch has one of them, hardly any is of one cluster, and some rows are dropped. Links "
                "chain: a false_negative_threshold above %s makes smaller groups",
                largest["rows"],
                n_rows,
                passage[:100],
                n_rows // largest["rows"],
                report["near_duplicate_threshold"],
            )
