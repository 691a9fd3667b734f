"""Fill contrastive batches from one topic or a few: cluster batches for sentence-transformers trainers.

train = attach_clusters(train, "all-MiniLM-L6-v2", cluster_size=32)
args = SentenceTransformerTrainingArguments("out", batch_sampler=ClusterBatchSampler.configure(rows_per_stratum=8))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_cluster_batches.batches.export import export_batches
    from st_cluster_batches.batches.multi_dataset import ClusterMultiDatasetBatchSampler
    from st_cluster_batches.batches.sampler import ClusterBatchSampler
    from st_cluster_batches.clusters.attach import attach_clusters, fit_clusters
    from st_cluster_batches.clusters.choice import Choice
    from st_cluster_batches.clusters.clustering import Clustering
    from st_cluster_batches.clusters.keys import attach_keys
    from st_cluster_batches.evaluation.tuning import tune
    from st_cluster_batches.inspection.measuring import inspect
    from st_cluster_batches.losses.guided import (
        CachedGuidedMultipleNegativesRankingLoss,
        GuidedMultipleNegativesRankingLoss,
    )
    from st_cluster_batches.losses.multi_vector import (
        CachedGuidedMultiVectorMultipleNegativesRankingLoss,
        GuidedMultiVectorMultipleNegativesRankingLoss,
    )
    from st_cluster_batches.refresh.refresher import Refresh

__all__ = [
    "CachedGuidedMultiVectorMultipleNegativesRankingLoss",
    "CachedGuidedMultipleNegativesRankingLoss",
    "Choice",
    "ClusterBatchSampler",
    "ClusterMultiDatasetBatchSampler",
    "Clustering",
    "GuidedMultiVectorMultipleNegativesRankingLoss",
    "GuidedMultipleNegativesRankingLoss",
    "Refresh",
    "attach_clusters",
    "attach_keys",
    "export_batches",
    "fit_clusters",
    "inspect",
    "tune",
]

_HOMES = {
    "CachedGuidedMultiVectorMultipleNegativesRankingLoss": "losses.multi_vector",
    "CachedGuidedMultipleNegativesRankingLoss": "losses.guided",
    "Choice": "clusters.choice",
    "ClusterBatchSampler": "batches.sampler",
    "ClusterMultiDatasetBatchSampler": "batches.multi_dataset",
    "Clustering": "clusters.clustering",
    "GuidedMultiVectorMultipleNegativesRankingLoss": "losses.multi_vector",
    "GuidedMultipleNegativesRankingLoss": "losses.guided",
    "Refresh": "refresh.refresher",
    "attach_clusters": "clusters.attach",
    "attach_keys": "clusters.keys",
    "export_batches": "batches.export",
    "fit_clusters": "clusters.attach",
    "inspect": "inspection.measuring",
    "tune": "evaluation.tuning",
}


def __getattr__(name: str) -> Any:
    # The libraries below take seconds to import; `st-cluster-batches --help` need not wait for them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
