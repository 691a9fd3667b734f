from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, concatenate_datasets
from examples import make_pairs, make_static_model

from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions

COMMUNITIES = "as communities, which METIS cut out of the graph of near queries and passages, with seed 0"


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("kmeans", ", by spherical k-means with seed 0"),
        ("communities", f", {COMMUNITIES}"),
        ({"a": "kmeans", "b": "communities"}, f", by spherical k-means, but `b` {COMMUNITIES}"),
    ],
)
def test_a_clustering_is_said_to_be_made_as_it_was(tmp_path: Path, method: Any, said: str) -> None:
    parts: list[Dataset] = [make_pairs(60, seed=at).add_column("source", [name] * 60) for at, name in enumerate("ab")]
    options = AttachOptions(ClusterOptions(cluster_size=20, method=method), cache_dir=tmp_path)
    _, clustering = cluster_dataset(concatenate_datasets(parts), make_static_model(), options)
    text = "\n".join(describe_clustering(clustering.manifest))
    assert said in text and ("k-means" in said) == ("k-means" in text)
