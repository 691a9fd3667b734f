"""Columns of strings that cannot be texts to be embedded: ids, codes, numbers, one value for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from st_cluster_batches.column_values import ROWS_OF_A_CODE, ROWS_OF_A_SOURCE, sample_rows
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.role_names import has_role_name
from st_cluster_batches.data.roles import explain_fault
from st_cluster_batches.data.texts import iterate_tables, join_chunks

if TYPE_CHECKING:
    from datasets import Dataset

_MAX_CODES = 1000


class _Suspicions:
    """What a column may still turn out to be, while its rows are read."""

    def __init__(self, name: str) -> None:
        self.first: str | None = None
        self.is_one_value = self.has_no_letter = True
        # A passage may well be one word, and a few words the answer to all questions; then it is called an answer.
        self.has_digits_in_words = self.has_few_words = not has_role_name(name)
        self.values: set[str] = set()

    @property
    def are_settled(self) -> bool:
        """Whether nothing is left to suspect."""
        return not (self.is_one_value or self.has_no_letter or self.has_digits_in_words or self.has_few_words)

    def read(self, texts: pa.LargeStringArray) -> None:
        """Drop the suspicions that some rows refute."""
        if not len(texts):
            return
        self.first = texts[0].as_py() if self.first is None else self.first
        self.is_one_value &= pc.all(pc.equal(texts, self.first)).as_py() is True
        self.has_no_letter &= not _is_any(texts, r"\pL")
        if self.has_digits_in_words or self.has_few_words:
            has_spaces = _is_any(texts, r"\s")
            self.has_digits_in_words &= not has_spaces and pc.all(pc.match_substring_regex(texts, r"\d")).as_py()
            self.has_few_words &= not has_spaces
            if self.has_few_words:
                self.values.update(pc.unique(texts).to_pylist())
                self.has_few_words = len(self.values) <= _MAX_CODES

    def name_fault(self, n_rows: int) -> str | None:
        """Say what is wrong once all rows are read, or nothing."""
        if self.is_one_value and n_rows > 1:
            return f"holds {str(self.first)[:40]!r} in all rows"
        if self.has_no_letter:
            return f"holds no letter in any row, but values such as {str(self.first)[:40]!r}"
        if self.has_digits_in_words:
            return f"holds ids or dates by its looks, such as {str(self.first)[:40]!r}"
        if self.has_few_words and ROWS_OF_A_CODE * len(self.values) <= n_rows:
            return f"holds codes by its looks: {len(self.values)} different words, such as {str(self.first)[:40]!r}"
        return None


def check_meaning(dataset: Dataset, columns: Sequence[str], where: str = "The dataset") -> None:
    """Check that columns of strings can be texts; of ordinary ones a few thousand rows are read.

    Args:
        dataset: The rows.
        columns: Their text columns, none of which the user has named.
        where: How a message calls the dataset.

    Raises:
        ValueError: If one holds a single value, or none with a letter, or ids or codes; with the call that mends it.
    """
    suspicions = {name: _Suspicions(name) for name in columns}
    for table in iterate_tables(dataset, columns, "Looking at texts", False):
        for name in [name for name, one in suspicions.items() if not one.are_settled]:
            suspicions[name].read(join_chunks(table[name]).drop_null())
        if all(one.are_settled for one in suspicions.values()):
            return
    faults = {name: fault for name, one in suspicions.items() if (fault := one.name_fault(len(dataset)))}
    for name, fault in faults.items():
        sound = [one for one in columns if one == name or one not in faults]
        raise ValueError(explain_fault(where, name, fault, sound if len(sound) > 2 else columns))


def check_text_called_source(dataset: Dataset, columns: Sequence[str], where: str) -> None:
    """Check that a column `source` that is taken for text is none of sources, by a sample of it.

    Raises:
        ValueError: If its values stand in many rows each.
    """
    if SOURCE not in columns:
        return
    rows = sample_rows(len(dataset))
    values = dataset.with_format("arrow", columns=[SOURCE])[rows][SOURCE]
    if ROWS_OF_A_SOURCE * pc.count_distinct(values).as_py() <= len(rows):
        raise ValueError(explain_fault(where, SOURCE, "holds few different values, as sources are", columns))


def _is_any(texts: pa.LargeStringArray, pattern: str) -> bool:
    return pc.any(pc.match_substring_regex(texts, pattern)).as_py() is True
