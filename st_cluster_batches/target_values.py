"""What a column says of how well pairs fit, and the calls that keep those that belong together.

Which value that is cannot be told in general: 1 of 0 and 1, but class 0 of the pairs of natural language inference.
So a message names the values that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datasets import Dataset

_FEW = 10  # values that a message lists
_UNKNOWN = "LABEL"  # where the user has to say which


@dataclass(frozen=True)
class TargetValues:
    """The values of a column of labels or scores.

    Args:
        column: Its name.
        told: What it holds, in words.
        kept: The condition on a row that belongs together, in Python, as far as it is known.
        label: The label of such pairs, as the command line and recipes take it.
    """

    column: str
    told: str
    kept: str
    label: str = _UNKNOWN

    @property
    def call(self) -> str:
        """The call that keeps the pairs that belong together."""
        return f"dataset.filter(lambda row: {self.kept}).remove_columns({self.column!r})"

    def __str__(self) -> str:
        return f"{self.column!r} ({self.told})"


def read_targets(dataset: Dataset, columns: Sequence[str]) -> list[TargetValues]:
    """Read which values some columns have, and in how many rows.

    Args:
        dataset: The pairs.
        columns: Those with labels or scores.
    """
    return [_read(dataset, column) for column in columns]


def _read(dataset: Dataset, column: str) -> TargetValues:
    values = dataset.with_format("arrow", columns=[column])[:][column]
    place, feature = f"row[{column!r}]", dataset.features[column]
    if pa.types.is_nested(values.type):
        return TargetValues(column, "lists", f"{place}[0] > LEAST")
    counts = {one["values"].as_py(): one["counts"].as_py() for one in pc.value_counts(values.drop_null())}
    names = dict(enumerate(getattr(feature, "names", ())))
    if len(counts) <= _FEW:
        shown = ", ".join(f"{_show(one, names)} in {counts[one]:,} rows" for one in sorted(counts))
        is_told = {0, 1} >= counts.keys() and 1 in counts and all(name.isdigit() for name in names.values())
        label = "1" if is_told else _UNKNOWN
        return TargetValues(column, shown, f"{place} == {label}", label)
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return TargetValues(column, f"numbers from {min(counts):g} to {max(counts):g}", f"{place} > LEAST")
    shown = ", ".join(_show(one, names) for one in sorted(counts)[:_FEW])
    return TargetValues(column, f"{len(counts):,} values, such as {shown}", f"{place} == {_UNKNOWN}")


def describe_targets(values: Sequence[TargetValues]) -> str:
    """Return columns with what they hold, in words."""
    return ", and ".join(map(str, values))


def _show(value: Any, names: Mapping[int, str]) -> str:
    return f"{value} ({names[value]})" if value in names else str(value) if isinstance(value, bool) else repr(value)
