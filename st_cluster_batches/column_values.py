"""What the values of a column may be: texts by their type, sources by how many there are."""

from __future__ import annotations

import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts; there are three, all of which `datasets` may give."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view())
