"""Find room for large false-negative groups: a row more than its own batches can hold is a guest in a full one.

The guest changes places with a row whose group has no other, which can go anywhere. So the host keeps its stratum but
for its guests, where opening it would scatter all of its rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from st_cluster_batches.sorting import Rows, find_repeats

Groups = npt.NDArray[np.uint32]


def lodge(
    batches: Rows, is_pure: npt.NDArray[np.bool_], rest: Rows, groups: Groups, n_open: int, n_last: int
) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Exchange rows of large groups for single rows of full batches.

    Few batches are touched: a group goes to batches that are hosts already, then to those that cross strata anyway,
    then to the nearest to where the largest group is at home.

    Args:
        batches: (T, size) rows of the full batches; changed in place.
        is_pure: (T,) whether a batch is of one stratum.
        rest: Rows that are left over.
        groups: (n,) the group of every row.
        n_open: Batches that are to be filled from the rest.
        n_last: Rows of a last short batch that is to be filled from it, too.

    Returns:
        The rest, with single rows at its end for those that found room, and (T,) the number of guests.
    """
    guests = np.zeros(len(batches), dtype=np.int64)
    names, counts = np.unique(groups[rest], return_counts=True)
    by_size = np.argsort(-counts, kind="stable")
    # The last batch takes a row more of each of the largest groups.
    capacity = n_open + (np.arange(len(names)) < n_last)
    surplus = np.maximum(counts[by_size] - capacity, 0)
    wanted = n_open * batches.shape[1] + n_last - int(np.minimum(counts[by_size], capacity).sum())
    if wanted <= 0 or not len(batches):
        return rest, guests
    large, surplus = names[by_size][surplus > 0], surplus[surplus > 0]
    homes = _find_homes(batches, groups, large)
    distance = np.abs(np.arange(len(batches)) - (np.median(homes[0]) if len(homes[0]) else 0))
    order = np.lexsort((distance, is_pure))
    is_single = ~np.isin(groups[batches], groups[find_repeats(groups)])
    n_singles = is_single.sum(axis=1)
    stays = np.ones(len(rest), dtype=bool)
    moved = []
    for group, n_rows, home in zip(large, surplus, homes, strict=True):
        is_free = n_singles > 0
        is_free[home] = False
        hosts = order[is_free[order]][: min(n_rows, wanted)]
        place = is_single[hosts].argmax(axis=1)
        own = np.flatnonzero(groups[rest] == group)[: len(hosts)]
        moved.append((hosts, batches[hosts, place]))
        batches[hosts, place] = rest[own]
        stays[own] = is_single[hosts, place] = False
        n_singles[hosts] -= 1
        guests[hosts] += 1
        order = order[np.argsort(guests[order] == 0, kind="stable")]
        wanted -= len(hosts)
    at, singles = (np.concatenate(one) for one in zip(*moved, strict=True))
    # In the order of their batches, so that neighbours stay together.
    return np.concatenate([rest[stays], singles[np.argsort(at, kind="stable")]]), guests


def _find_homes(batches: Rows, groups: Groups, names: Groups) -> list[npt.NDArray[np.intp]]:
    """Return for each group the batches that hold a row of it."""
    at, column = np.nonzero(np.isin(groups[batches], names))
    sorter = np.argsort(names)
    group = sorter[np.searchsorted(names, groups[batches[at, column]], sorter=sorter)]
    order = np.argsort(group, kind="stable")
    return np.split(at[order], np.cumsum(np.bincount(group, minlength=len(names)))[:-1])
