from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from st_cluster_batches.plans.keys import Keys, read_keys
from st_cluster_batches.plans.labels import read_labels

EDGES = [0, 1, -1, 2, -2, 2**62, -(2**62), 2**63 - 1, -(2**63)]


def expect(rows: list[list[int] | None], is_signed: bool) -> dict[int, dict[int, bool]]:
    """Return, by row, the shared keys and whether each is held as a negative; one number per key."""
    held: dict[int, dict[int, bool]] = {}
    for row, keys in enumerate(rows):
        for key in keys or []:
            number, is_negative = (abs(key), key < 0) if is_signed else (key, False)
            own = held.setdefault(number, {})
            own[row] = own.get(row, True) and is_negative
    return {number: own for number, own in held.items() if len(own) > 1 and not all(own.values())}


def found(keys: Keys | None) -> set[frozenset[tuple[int, bool]]]:
    if keys is None:
        return set()
    is_negative = np.zeros(len(keys.rows), dtype=bool) if keys.is_negative is None else keys.is_negative
    assert (np.diff(keys.rows) >= 0).all() and set(keys.keys.tolist()) == set(range(int(keys.keys.max()) + 1))
    holders: dict[int, set[tuple[int, bool]]] = {}
    for row, key, negative in zip(keys.rows.tolist(), keys.keys.tolist(), is_negative.tolist(), strict=True):
        holders.setdefault(key, set()).add((row, negative))
    assert sum(map(len, holders.values())) == len(keys.rows), "a key counts once in a row"
    return set(map(frozenset, holders.values()))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.none() | st.lists(st.sampled_from(EDGES) | st.integers(-6, 6), max_size=4), max_size=30),
    st.sampled_from([pa.list_(pa.int64()), pa.large_list(pa.int64())]),
    st.integers(0, 5),
    st.integers(1, 9),
    st.booleans(),
)
def test_shared_keys_are_found_in_any_layout(
    rows: list[list[int] | None], kind: pa.DataType, first: int, length: int, is_signed: bool
) -> None:
    rows = [None, [1, 2, 3], *rows]
    pieces = [pa.array(rows[low : low + length], type=kind) for low in range(0, len(rows), length)]
    column = pa.chunked_array(pieces, type=kind).slice(first)
    expected = expect(rows[first:], is_signed)
    assert found(read_keys(column, "keys", is_signed)) == {frozenset(own.items()) for own in expected.values()}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5, 7, 5, -7]),
        pa.array([5, 7, 5, 8], type=pa.uint8()),
        pa.array([2**64 - 1, 7, 2**64 - 1, 8], type=pa.uint64()),
        pa.array(["a", "b", "a", "c"]),
        pa.array(["a", "b", "a", "c"]).dictionary_encode(),
        pa.array([["a"], [], ["b", "a"], None]),
        pa.array([[1, 2], [3, 4], [1, 5], [6, 7]], type=pa.list_(pa.int32(), 2)),
        pa.array([[1, 2], None, [1, 5], [6, 7]], type=pa.list_(pa.int32(), 2)),
    ],
    ids=str,
)
def test_a_column_holds_one_key_or_a_list_of_them(column: pa.Array) -> None:
    keys = read_keys(pa.chunked_array([column]), "keys", False)
    assert found(keys) == {frozenset({(0, False), (2, False)})}


def test_many_keys_are_read_exactly() -> None:
    rng = np.random.default_rng(0)
    values = np.arange(400_000) * 2**40
    values[rng.permutation(400_000)[:2000]] = values[0]
    values[:1000] = values[1000:2000]
    keys = read_keys(pa.chunked_array([pa.array(values)]), "keys", False)
    counts = np.unique(values, return_counts=True)[1]
    assert keys is not None and len(keys.rows) == counts[counts > 1].sum()


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ([1, None, 2], ValueError, "1 null keys, the first in row 1"),
        ([[], None, [1, 2], [3, None]], ValueError, "1 null keys, the first in row 3"),
        ([0.5, 1.0], ValueError, "holds double"),
    ],
)
def test_null_keys_and_other_types_are_refused(column: list[Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_keys(pa.chunked_array([pa.array(column)]), "keys", False)


def test_lists_that_are_all_empty_hold_no_key() -> None:
    assert read_keys(pa.chunked_array([pa.array([[], [], None])]), "keys", True) is None


def test_keys_are_read_through_indices_and_concatenation_and_tell_labels_apart() -> None:
    data = Dataset.from_dict(
        {"cluster": [0] * 4, "false_negative_keys": [[7, 8], [], [-7], [8]], "other": [[7, 8], [], [-7], [8]]}
    )
    assert found(read_labels(data).keys) == {frozenset({(0, False), (2, True)}), frozenset({(0, False), (3, False)})}
    assert found(read_labels(data, distinct=("other",)).keys) == {frozenset({(0, False), (3, False)})}
    assert read_labels(data, distinct=()).keys is None
    turned = concatenate_datasets([data.select([3, 2]), data.select([1, 0])]).with_transform(lambda rows: rows)
    assert found(read_labels(turned).keys) == {frozenset({(3, False), (1, True)}), frozenset({(3, False), (0, False)})}
    digests = {read_labels(data, distinct=names).digest() for names in (("false_negative_keys",), ("other",), ())}
    assert len(digests) == 3


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*[st.sampled_from(EDGES) | st.integers(-3, 3)] * 3), min_size=1, max_size=30))
def test_strata_of_any_numbers_keep_their_order(rows: list[tuple[int, int, int]]) -> None:
    names = ("source", "cluster", "part")
    data = Dataset.from_dict({name: [row[at] for row in rows] for at, name in enumerate(names)})
    labels = read_labels(data, names)
    distinct = sorted(set(rows))
    assert labels.strata.tolist() == [distinct.index(row) for row in rows]
    sources = sorted({row[0] for row in rows})
    assert labels.source_of_stratum.tolist() == [sources.index(row[0]) for row in distinct]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_keys_of_any_kind_of_string_are_read(kind: pa.DataType) -> None:
    keys = read_keys(pa.chunked_array([pa.array(["a", "b", "a", "c"], kind)]), "keys", False)
    assert keys is not None and sorted(keys.rows.tolist()) == [0, 2]


def test_the_keys_of_several_columns_part_rows_alike() -> None:
    data = Dataset.from_dict(
        {"false_negative_keys": [[7, 8], [], [-7], [8]], "answer": ["a", "b", "c", "b"], "id": [4, 5, 6, 7]}
    )
    own, answers = {frozenset({(0, False), (2, True)}), frozenset({(0, False), (3, False)})}, {(1, False), (3, False)}
    for names in (("false_negative_keys", "id", "answer"), ("answer", "false_negative_keys")):
        assert found(read_labels(data, (), names).keys) == {*own, frozenset(answers)}
    assert found(read_labels(data, (), ("id", "answer")).keys) == {frozenset(answers)}
    assert read_labels(data, (), ("id",)).keys is None
