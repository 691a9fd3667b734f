"""Fill contrastive batches from one topic: cluster batches for sentence-transformers trainers.

train = attach_clusters(train, "all-MiniLM-L6-v2")
args = SentenceTransformerTrainingArguments("out", batch_sampler=ClusterBatchSampler)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_cluster_batches.attach import attach_clusters
    from st_cluster_batches.clustering import Clustering
    from st_cluster_batches.fitting import fit_clusters
    from st_cluster_batches.inspection import inspect
    from st_cluster_batches.multi_dataset import ClusterMultiDatasetBatchSampler
    from st_cluster_batches.sampler import ClusterBatchSampler
    from st_cluster_batches.stream import export_batches

__all__ = [
    "ClusterBatchSampler",
    "ClusterMultiDatasetBatchSampler",
    "Clustering",
    "attach_clusters",
    "export_batches",
    "fit_clusters",
    "inspect",
]

_HOMES = {
    "ClusterBatchSampler": "sampler",
    "ClusterMultiDatasetBatchSampler": "multi_dataset",
    "Clustering": "clustering",
    "attach_clusters": "attach",
    "export_batches": "stream",
    "fit_clusters": "fitting",
    "inspect": "inspection",
}


def __getattr__(name: str) -> Any:
    # The libraries below take seconds to import; `st-cluster-batches --help` need not wait for them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
