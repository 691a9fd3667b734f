"""Labels and batches for tests of plans."""

from __future__ import annotations

from itertools import chain

import numpy as np
from references import find_conflicts

from st_cluster_batches.plans.batch_plan import BatchPlan, EpochPlan
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import Labels


def make_keys(held: dict[int, list[int]]) -> Keys | None:
    """Make keys from the keys of some rows; -k - 1 stands for key k, held as an explicit negative."""
    entries = sorted(
        {(row, key if key >= 0 else -key - 1): min(key >= 0 for key in [key]) for row in held for key in held[row]}
    )
    if not entries:
        return None
    positive = {(row, key) for row in held for key in held[row] if key >= 0}
    rows, keys = np.array(entries).T
    is_negative = np.array([entry not in positive for entry in entries])
    return Keys(rows, keys.astype(np.uint32), is_negative if is_negative.any() else None)


def group_keys(groups: np.ndarray) -> Keys:
    return Keys(np.arange(len(groups)), np.asarray(groups).astype(np.uint32))


def make_labels(sources: list[int], clusters: list[int], keys: Keys | None = None) -> Labels:
    distinct, strata = np.unique(np.stack([sources, clusters], axis=1), axis=0, return_inverse=True)
    return Labels(strata.ravel(), np.unique(distinct[:, 0], return_inverse=True)[1], keys)


def one_stratum(n_rows: int, keys: Keys | None) -> Labels:
    return Labels(np.zeros(n_rows, dtype=int), np.zeros(1, dtype=int), keys)


def global_batches(plan: BatchPlan, epoch: EpochPlan) -> list[list[int]]:
    batches = list(epoch.batches(plan.batch_size))
    full = len(epoch.rows) * plan.world_size
    joined = [list(chain(*batches[at : at + plan.world_size])) for at in range(0, full, plan.world_size)]
    return joined + batches[full:]


def count_repeats(labels: Labels, batches: list[list[int]]) -> int:
    conflicts = find_conflicts(labels)
    return sum(int(np.tril(conflicts[np.ix_(batch, batch)], -1).any(axis=1).sum()) for batch in batches)
