"""The topics of clusters: characteristic words, typical rows, and rows at the border to another cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.inspection.findings import ClusterTopic

Vectors = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]

_WORDS = 8
_EXAMPLES = 3
_VOCABULARY = 50_000


def find_words(documents: Sequence[str], cluster_of_document: Integers) -> dict[int, list[str]]:
    """Find the words of every cluster by class-based TF-IDF (BERTopic, arXiv 2203.05794).

    A word weighs by its share of the cluster's words times log(1 + A / f), with f its count over all clusters and A
    the mean number of words of a cluster.

    Args:
        documents: Texts, several for each cluster.
        cluster_of_document: (n,) cluster numbers.

    Returns:
        Up to eight words by cluster; none for a cluster whose texts have no words.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    clusters, at = np.unique(cluster_of_document, return_inverse=True)
    try:
        vectorizer = CountVectorizer(stop_words="english", max_features=_VOCABULARY)
        counts = vectorizer.fit_transform(documents)
    except ValueError:  # raised by scikit-learn where no text has a word
        return {int(cluster): [] for cluster in clusters}
    members = csr_array((np.ones(len(at)), (at, np.arange(len(at)))), shape=(len(clusters), len(at)))
    per_cluster = csr_array(members @ counts)
    frequency = np.asarray(per_cluster.sum(axis=0)).ravel()
    length = np.asarray(per_cluster.sum(axis=1)).ravel()
    idf = np.log1p(length.mean() / np.maximum(frequency, 1))
    vocabulary = vectorizer.get_feature_names_out()
    words = {}
    for row, cluster in enumerate(clusters.tolist()):
        low, high = per_cluster.indptr[row : row + 2]
        columns = per_cluster.indices[low:high]
        weights = per_cluster.data[low:high] / max(length[row], 1) * idf[columns]
        # Alphabetical among equals, so that the same texts give the same words everywhere.
        best = sorted(zip(-weights, vocabulary[columns], strict=True))[:_WORDS]
        words[cluster] = [str(word) for _, word in best]
    return words


def describe_clusters(
    rows: Integers, vectors: Vectors, strata: Integers, names: Mapping[int, tuple[str, int, int]]
) -> list[ClusterTopic]:
    """Find coherence, typical and borderline rows of clusters from a sample of their rows.

    Args:
        rows: (m,) row numbers of the sample.
        vectors: (m, d) unit vectors of their key texts.
        strata: (m,) strata that they are in, each a cluster of one source.
        names: Source, cluster number and size by stratum.

    Returns:
        One for each stratum in the sample, in order, without words.
    """
    numbers = np.unique(strata)
    means = np.stack([vectors[strata == number].mean(axis=0) for number in numbers]).astype(np.float32)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    sources = np.array([names[int(number)][0] for number in numbers])
    topics = []
    for at, number in enumerate(numbers.tolist()):
        members = np.flatnonzero(strata == number)
        similarity = vectors[members] @ means.T
        own = similarity[:, at].copy()
        similarity[:, (sources != sources[at]) | (numbers == number)] = -np.inf
        margin = own - similarity.max(axis=1)
        source, cluster, size = names[number]
        topics.append(
            ClusterTopic(
                cluster=cluster,
                source=source,
                rows=size,
                coherence=float(own.mean()),
                words=[],
                typical=rows[members[np.argsort(-own, kind="stable")[:_EXAMPLES]]].tolist(),
                borderline=rows[members[np.argsort(margin, kind="stable")[:_EXAMPLES]]].tolist(),
            )
        )
    return topics
