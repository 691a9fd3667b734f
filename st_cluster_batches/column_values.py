"""What the values of a column may be: texts by their type, sources by how many there are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

FEW_SOURCES = 20  # that any number of rows may have
ROWS_OF_A_SOURCE = 10  # at least, of a column `source` that stands where texts do


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts; there are three, all of which `datasets` may give."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())


def count_sources_at_most(n_rows: int) -> int:
    """Return how many sources some rows may have before the column of sources is one of texts."""
    return max(FEW_SOURCES, n_rows // 2)


def sample_rows(n_rows: int, n_sampled: int = 4096) -> npt.NDArray[np.int64]:
    """Return some rows in ascending order, evenly over all of them, or all where there are no more."""
    return np.unique(np.linspace(0, n_rows - 1, min(n_rows, n_sampled)).astype(np.int64))
