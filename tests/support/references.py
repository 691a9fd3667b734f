"""Slow and plain ways to do what the plan does, for tests to compare with."""

from __future__ import annotations

import numpy as np

from st_cluster_batches.plans.labels import Labels


def find_conflicts(labels: Labels) -> np.ndarray:
    """Return the (n, n) matrix of which rows conflict."""
    n_rows = len(labels)
    if labels.keys is None:
        return np.zeros((n_rows, n_rows), dtype=bool)
    keys = labels.keys
    is_negative = np.zeros(len(keys.rows), dtype=bool) if keys.is_negative is None else keys.is_negative
    holds, holds_positive = np.zeros((2, n_rows, int(keys.keys.max()) + 1), dtype=np.float32)
    holds[keys.rows, keys.keys] = 1
    holds_positive[keys.rows[~is_negative], keys.keys[~is_negative]] = 1
    conflicts: np.ndarray = (holds @ holds_positive.T + holds_positive @ holds.T) > 0
    np.fill_diagonal(conflicts, False)
    return conflicts


def search_restarts(labels: Labels, batch_size: int, restarts: int) -> int:
    """Return the fewest repeats of several min-conflict searches from random batches, strata aside."""
    conflicts = find_conflicts(labels)
    return min(_search(conflicts, batch_size, np.random.default_rng(seed)) for seed in range(restarts))


def _search(conflicts: np.ndarray, batch_size: int, rng: np.random.Generator) -> int:
    n_rows, every = len(conflicts), np.arange(len(conflicts))
    batch = rng.permutation(n_rows) // batch_size
    n_batches = int(batch.max()) + 1
    met = np.stack([conflicts[:, batch == one].sum(axis=1) for one in range(n_batches)], axis=1)
    matrix, in_vain = conflicts.astype(int), 0
    while in_vain < 300 and len(rows := np.flatnonzero(met[every, batch])):
        # The best exchange of one row in conflict; one that gains nothing is made too, to get around obstacles.
        row = rng.choice(rows)
        here = batch[row]
        rise = met[row, batch] - met[row, here] + met[:, here] - met[every, batch] - 2 * matrix[row]
        rise[batch == here] = n_rows
        other = rng.choice(np.flatnonzero(rise == rise.min()))
        in_vain = 0 if rise[other] < 0 else in_vain + 1
        if rise[other] <= 0:
            there = batch[other]
            batch[row], batch[other] = there, here
            met[:, here] += matrix[:, other] - matrix[:, row]
            met[:, there] += matrix[:, row] - matrix[:, other]
    batches = [np.flatnonzero(batch == one) for one in range(n_batches)]
    return sum(int(np.tril(conflicts[np.ix_(rows, rows)], -1).any(axis=1).sum()) for rows in batches)
