"""What a file begins with: whether there are rows, and whether the first line of a table holds names of columns."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from st_cluster_batches.columns import LABEL_COLUMNS
from st_cluster_batches.data.role_names import has_role_name
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS

logger = logging.getLogger(__name__)

_LONGEST_NAME = 100  # of a column; more is text
_WORDS_OF_NAME = 3  # at most; four are a text, where the rows below have such too
_REMEDY = "put a line with the names of the columns before it, such as query{}passage"


def has_no_rows(path: Path) -> bool:
    """Return whether a parquet file is whole and holds no rows, as Spark leaves some: `datasets` cannot read such."""
    try:
        return path.suffix.lower() in (".parquet", ".pq") and pq.read_metadata(path).num_rows == 0
    except pa.ArrowException:  # damaged, which reading says better
        return False


def check_header(lines: Sequence[Sequence[str]], separator: str, where: str) -> None:
    """Refuse a first line that is a row, and warn of one that may be: as names of columns it would be lost.

    A line with a name that people give to queries, passages or labels is names, and so is one of names that are
    shorter than the texts below.

    Args:
        lines: The cells of the first lines of a table.
        separator: What stands between cells.
        where: The file.

    Raises:
        ValueError: If the first line is a row.
    """
    header, below = lines[0], lines[1:]
    remedy = _REMEDY.format("<TAB>" if separator == "\t" else separator)
    start = repr(" | ".join(header)[:60])
    if any(len(cell) > _LONGEST_NAME for cell in header):
        raise ValueError(f"{where}: the first line, {start}..., holds no names of columns; {remedy}")
    if any(map(_is_known, header)) or not below:
        return
    columns = [[line[at] for line in below if at < len(line)] for at in range(len(header))]
    recurs = any(cell and cell in column for cell, column in zip(header, columns, strict=True))
    # Half as long as the texts below, in all columns: names of columns are shorter than sentences.
    is_alike = all(
        2 * len(cell) >= median(map(len, column or [""])) for cell, column in zip(header, columns, strict=True)
    )
    is_text = any(len(cell.split()) > _WORDS_OF_NAME or cell.strip().endswith((".", "?", "!")) for cell in header)
    if recurs or (is_alike and is_text):
        raise ValueError(
            f"{where}: the first line, {start}, looks like a row and not like names of columns, which would lose it; "
            f"{remedy} (if they are names, call one of them query)"
        )
    if is_alike or is_text:
        logger.warning(
            "%s: the first line, %s, is taken for names of columns, though it reads like a row: the %d lines below it "
            "that were looked at have %s characters at the median. If it is one, it is lost; %s",
            where,
            start,
            len(below),
            " and ".join(f"{median(map(len, column or [''])):g}" for column in columns),
            remedy,
        )


def _is_known(cell: str) -> bool:
    """Return whether a cell is a name that people give to columns, or a short one with such a word in it."""
    name = cell.strip().lower()
    if name in (*LABEL_COLUMNS, *NO_TEXT_COLUMNS) or has_role_name(name):
        return True
    words = re.findall(r"[^\W\d_]+", name)
    return len(words) <= _WORDS_OF_NAME and any(has_role_name(word) or word in ("id", "ids", "idx") for word in words)
