"""What `Clustering.assign` is given: texts or vectors, checked, since nearly anything has a length and elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.kmeans import Vectors
from st_cluster_batches.data.pairs import Key, sides_of

_TEXT_KINDS = "UOTS"  # of numpy's arrays: texts and Python's objects


def read_rows(given: Any) -> npt.NDArray[Any] | list[Any]:
    """Return vectors as an array, and texts as a list of rows that `split_texts` checks.

    Args:
        given: A sequence of texts or of tuples, or an array of vectors: numpy's, or what becomes one (torch, pandas).

    Raises:
        TypeError: If it is one text, names columns, or has no order.
    """
    if hasattr(given, "__array__"):
        array = np.asarray(given)
        if array.ndim:
            return array.tolist() if array.dtype.kind in _TEXT_KINDS else array
        given = array.item()
    if isinstance(given, str | bytes):
        raise TypeError(f"assign takes a list of texts, not one: {given[:80]!r}; pass assign([text])")
    if isinstance(given, Mapping) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise TypeError(
            f"assign takes a list of texts, or an array of vectors, not a {type(given).__name__}; pass "
            "assign([row['query'] for row in rows]) of rows with columns, assign(list(texts)) of others"
        )
    return list(given)


def split_texts(rows: Sequence[Any], key: Key) -> list[list[str]]:
    """Return the texts of each side of a key.

    Args:
        rows: Texts, or (query, passage) tuples where the key has both sides.
        key: The text that decides the cluster.

    Raises:
        TypeError: If a row is anything else.
        ValueError: If a text is empty or blank.
    """
    sides = sides_of(key)
    for at, row in enumerate(rows):
        texts = [row] if len(sides) == 1 else row
        is_right = isinstance(texts, tuple | list) and len(texts) == len(sides)
        if not (is_right and all(isinstance(one, str) for one in texts)):
            needed = f"a text, the {key}" if len(sides) == 1 else "a (query, passage) tuple of texts"
            raise TypeError(
                f"Row {at} is a {type(row).__name__}, {str(row)[:80]!r}, needed is {needed}, since the clustering was "
                f"made by key={key!r}; vectors are passed as one array: assign(np.asarray(vectors))"
            )
        if not all(one.strip() for one in texts):
            raise ValueError(f"Row {at} has no text: {row!r}. Leave such rows out: [one for one in texts if one]")
    return [list(rows)] if len(sides) == 1 else [list(side) for side in zip(*rows, strict=True)]


def check_vectors(array: npt.NDArray[Any], dim: int) -> Vectors:
    """Return vectors as float32.

    Args:
        array: (n, d) numbers.
        dim: d of the centroids.

    Raises:
        ValueError: If they are of another shape or kind, or one has no direction.
    """
    if array.ndim != 2 or array.shape[1] != dim or array.dtype.kind not in "fiu":
        raise ValueError(
            f"Vectors of shape {array.shape} and type {array.dtype} are given, needed are numbers of shape "
            f"(n, {dim}), by the encoder of the clustering"
        )
    with np.errstate(over="ignore"):
        vectors: Vectors = array.astype(np.float32)
    largest = np.abs(vectors).max(axis=1, initial=0)
    if (is_bad := ~(np.isfinite(largest) & (largest > 0))).any():
        at = int(is_bad.argmax())
        kind = "zero" if largest[at] == 0 else "not finite"
        raise ValueError(
            f"The vector of row {at} is {kind} ({is_bad.sum()} such rows), and is near to no cluster. Leave such rows "
            "out: vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)]"
        )
    return vectors
