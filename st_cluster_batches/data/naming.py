"""Names as people gave them, which may be anything: as file names, in tables of Markdown, and on a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import xxhash

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_ ().,+=-]{0,79}")
_SPLIT = re.compile(r"(?=.{1,80}$)\w+(\.\w+)*")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{at}" for port in ("com", "lpt") for at in range(10))}
_MARKED = str.maketrans({char: f"\\{char}" for char in "\\`*[]|"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})


def name_file(name: str) -> str:
    """Return a name that every file system takes for one file, in the folder that it is put into.

    Most names stay as they are. Others keep what is harmless of them, and get a hash: no two become one.

    Args:
        name: Any text.
    """
    stem = name.partition(".")[0].rstrip().lower()
    if _SAFE.fullmatch(name) and stem not in _RESERVED and name[-1] not in ". ":
        return name
    return _add_hash(name)


def name_files(names: Iterable[str]) -> dict[str, str]:
    """Return a file name for each of several names; those that differ in case alone are told apart, too."""
    files = {name: name_file(name) for name in names}
    counts = Counter(file.casefold() for file in files.values())
    return {name: file if counts[file.casefold()] == 1 else _add_hash(name) for name, file in files.items()}


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """Return for each of several names one that a split on the Hub can have: a word, and not `all`; no two alike."""
    given, named = list(names), dict[str, str]()
    # Names that can be splits first, so that they stay as they are.
    for name in sorted(given, key=lambda name: _SPLIT.fullmatch(name) is None):
        split = name if _SPLIT.fullmatch(name) else re.sub(r"\W+", "_", name).strip("_")[:40]
        taken = {"", "all", *(one.casefold() for one in named.values())}
        named[name] = split if split.casefold() not in taken else _add_hash(name).replace("-", "_")
    return {name: named[name] for name in given}


def _add_hash(name: str) -> str:
    kept = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "name"
    return f"{kept}-{xxhash.xxh3_64_hexdigest(name.encode('utf-8', 'surrogatepass'))}"


def escape_cell(text: object) -> str:
    """Return a text for a cell of a Markdown table, that shows as it is and ends no cell, row or tag."""
    return show_line(text).translate(_MARKED)


def quote_code(text: object) -> str:
    """Return a text as code in a line or a table of Markdown."""
    return f"`{show_line(text).replace('`', chr(39)).replace('|', chr(166))}`"


def label_figure(text: object) -> str:
    """Return a text for a figure of matplotlib, which takes $ for mathematics and leaves out what begins by _."""
    label = show_line(text, 40).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def show_line(text: object, width: int | None = None) -> str:
    """Return a text on one line, cut to a width; what would move a cursor is spelled out.

    Args:
        text: Anything.
        width: Characters to show at most.
    """
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def list_few(texts: Sequence[str], most: int = 5, separator: str = "; ") -> str:
    """Return the first of some texts, and how many more there are.

    Args:
        texts: Names, or what is to be said of each.
        most: How many to give.
        separator: What stands between them.
    """
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more
