"""How many pure batches each stratum can fill: where its rows would meet false negatives, they are pooled instead."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.plans.sorting import CHUNK, Integers, find_starts, stable_order

Counts = npt.NDArray[np.int64]

_MOST_ROUNDS = 20


def choose_quotas(
    sizes: Counts, outside: Counts, sources: Integers, strata: Integers, groups: Integers, global_size: int
) -> Counts:
    """Choose how many pure batches each stratum fills: all that it can without rows of one group in a batch.

    A stratum of 12 rows, three of each of four texts, fills no batch of 8 whose texts differ; among its neighbours
    its rows meet none of their kind. What other batches cannot part either stays where it is, so a stratum does not
    give up pure batches for an answer that half of its source has.

    Args:
        sizes: (s,) rows of each stratum, in random batches or not: the two may change places.
        outside: (s,) those that are in no random batch.
        sources: (s,) the source of each stratum, ascending from 0.
        strata: (r,) the stratum of each row that has a key.
        groups: (r,) their groups: rows of one group are not to meet.
        global_size: Rows of a global batch.

    Returns:
        (s,) pure batches of each stratum.
    """
    most: Counts = outside // global_size
    n_random = int((sizes - outside).sum()) // global_size
    # A source of one stratum has no neighbours to pool with.
    may_give = (most > 0) & (np.bincount(sources) > 1)[sources]
    at = _find_large_groups(strata, groups, np.where(may_give, most, len(strata)))
    if not len(at):
        return most
    n_groups = int(groups.max()) + 1
    runs = strata[at] * np.int64(n_groups) + groups[at]
    runs = runs[stable_order(runs)]
    starts = find_starts(runs)
    counts = np.diff(starts, append=len(runs))
    stratum, group = np.divmod(runs[starts], n_groups)
    outside_of_source = np.bincount(sources, weights=outside).astype(np.int64)
    parting = np.unique(sources[stratum] * np.int64(n_groups) + group, return_inverse=True)[1]
    source_of_parting = np.zeros(int(parting.max()) + 1, dtype=np.int64)
    source_of_parting[parting] = sources[stratum]
    # From as few pure batches as the groups ask for, back to as many as the others cannot relieve.
    quota = _fill_purely(most, sizes, stratum, counts, global_size)
    for _ in range(_MOST_ROUNDS):
        n_pure = np.bincount(sources, weights=quota).astype(np.int64)
        n_others = outside_of_source // global_size - n_pure + n_random + 1
        surplus = np.maximum(counts - quota[stratum], 0)
        of_group = np.bincount(parting, weights=surplus)
        beyond = np.maximum(of_group - n_others[source_of_parting], 0)
        stuck = np.ceil(surplus * (beyond / np.maximum(of_group, 1))[parting]).astype(np.int64)
        relieved = _fill_purely(most, sizes, stratum, counts - stuck, global_size)
        if (relieved <= quota).all():
            break
        quota = np.maximum(relieved, quota)
    return quota


def _find_large_groups(strata: Integers, groups: Integers, limits: Counts) -> npt.NDArray[np.intp]:
    """Find the rows of all groups that have more rows than one of their strata has batches.

    Most groups have fewer, and cannot stand in the way: their rows go to batches one by one. Of the others all rows
    count, since those of strata without a batch of their own are where the rows of others would be pooled.
    """
    if not len(groups):
        return np.zeros(0, dtype=np.intp)
    frequency = np.bincount(groups)
    chunks = [slice(low, low + CHUNK) for low in range(0, len(strata), CHUNK)]  # to save memory
    is_large = np.zeros(len(frequency), dtype=bool)
    for one in chunks:
        is_large[groups[one][frequency[groups[one]] > limits[strata[one]]]] = True
    return np.concatenate([one.start + np.flatnonzero(is_large[groups[one]]) for one in chunks])


def _fill_purely(most: Counts, sizes: Counts, stratum: Integers, counts: Counts, global_size: int) -> Counts:
    """Find the largest number of batches, up to `most`, that each stratum fills without more than one row of a group.

    With q batches a stratum places all its rows but those of its groups beyond q. That these are enough for q batches
    holds up to some q and for none beyond it, so halving finds it.
    """
    low, high = np.zeros_like(most), most.copy()
    while (low < high).any():
        middle = (low + high + 1) // 2
        unplaced = np.bincount(stratum, weights=np.maximum(counts - middle[stratum], 0), minlength=len(sizes))
        is_filled = sizes - unplaced >= middle * global_size
        low, high = np.where(is_filled, middle, low), np.where(is_filled, high, middle - 1)
    return low
