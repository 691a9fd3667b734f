from __future__ import annotations

import numpy as np
import pytest

from st_cluster_batches.lodging import lodge

N_BATCHES, SIZE, N_REST = 10, 4, 8
LARGE, OTHER = 1000, 1001


@pytest.fixture
def batches() -> np.ndarray:
    return np.arange(N_BATCHES * SIZE).reshape(N_BATCHES, SIZE)


@pytest.fixture
def rest() -> np.ndarray:
    return N_BATCHES * SIZE + np.arange(N_REST)


@pytest.fixture
def groups(rest: np.ndarray) -> np.ndarray:
    """All rows that are left over are of one group, every other row is its own."""
    groups = np.arange(N_BATCHES * SIZE + N_REST, dtype=np.uint32)
    groups[rest] = LARGE
    return groups


PURE = np.ones(N_BATCHES, dtype=bool)


@pytest.mark.parametrize(("n_open", "n_last", "n_guests"), [(0, 0, 0), (0, 3, 2), (1, 0, 3), (1, 2, 4), (2, 0, 6)])
def test_no_more_rows_change_places_than_it_takes(
    batches: np.ndarray, rest: np.ndarray, groups: np.ndarray, n_open: int, n_last: int, n_guests: int
) -> None:
    left, guests = lodge(batches, PURE, rest, groups, n_open, n_last)
    assert sorted([*batches.ravel(), *left]) == list(range(len(groups))), "no row is lost"
    assert guests.sum() == n_guests
    assert ((groups[batches] == LARGE).sum(axis=1) == guests).all() and guests.max() <= 1


def test_hosts_are_mixed_batches_then_the_nearest_ones(
    batches: np.ndarray, rest: np.ndarray, groups: np.ndarray
) -> None:
    groups[batches[6, 0]] = LARGE  # at home in batch 6
    is_pure = PURE.copy()
    is_pure[1] = False
    _, guests = lodge(batches, is_pure, rest, groups, n_open=0, n_last=4)
    assert np.flatnonzero(guests).tolist() == [1, 5, 7]


def test_groups_share_their_hosts(batches: np.ndarray, rest: np.ndarray, groups: np.ndarray) -> None:
    groups[rest[4:]] = OTHER
    groups[batches[2, 0]] = OTHER
    _, guests = lodge(batches, PURE, rest, groups, n_open=1, n_last=4)
    # Each group keeps a row for the open batch and one for the last; two of its rows are guests.
    assert np.flatnonzero(guests).size == 2 and guests.sum() == 4
    assert all(len(set(groups[batch])) == SIZE for batch in batches), "no false negatives"


def test_rows_whose_group_repeats_never_make_room(batches: np.ndarray, rest: np.ndarray, groups: np.ndarray) -> None:
    groups[batches] = np.arange(SIZE)
    left, guests = lodge(batches, PURE, rest, groups, n_open=2, n_last=0)
    assert guests.sum() == 0 and (left == rest).all()
