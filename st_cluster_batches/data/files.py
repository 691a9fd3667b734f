"""Files of rows, in the kinds that people have, read by the builders of the `datasets` library."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import logging
import lzma
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from st_cluster_batches.data.cells import read_as_texts, read_first_lines, restore_numbers
from st_cluster_batches.data.header import check_header, has_no_rows
from st_cluster_batches.storage.cache import NO_ROOM

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_BUILDERS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_PACKED = (".gz", ".bz2", ".xz", ".zst")
KINDS = "parquet, JSON lines, JSON arrays, CSV, TSV and Arrow, gzipped or not"
_NO_DATA = {
    "clustering.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "config.json",
}


def find_kind(path: Path) -> str | None:
    """Return the ending that says what kind of file this is, `.jsonl` for `a.jsonl.gz`; None if it holds no rows."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in _PACKED:
        endings.pop()
    return endings[-1] if endings and endings[-1] in _BUILDERS and path.name not in _NO_DATA else None


def strip_ending(name: str) -> str:
    """Return the name of a file without the endings that say its kind."""
    for endings in (_PACKED, _BUILDERS):
        name = next(
            (name[: -len(one)] for one in endings if name.lower().endswith(one) and len(name) > len(one)), name
        )
    return name


def list_data_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the files of a folder but for hidden ones and those whose name starts with `_`.

    Where it holds no rows itself, those of the folders below are taken, but for what `save_to_disk` wrote.

    Args:
        folder: The folder.

    Returns:
        Those that hold rows, and the others.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    )
    taken = [path for path in found if find_kind(path) and path.parent == folder]
    if not taken:
        taken = [path for path in found if find_kind(path) and not (path.parent / "state.json").exists()]
    return taken, sorted(set(found) - set(taken))


def read_file(path: Path, cache_dir: str | None = None, column_names: list[str] | None = None) -> Dataset:
    """Read one file.

    Args:
        path: The file.
        cache_dir: Where the rows are kept as Arrow; the cache of `datasets` by default.
        column_names: Names of the columns of a CSV or TSV file whose first line does not hold them.

    Returns:
        Its rows.

    Raises:
        ValueError: If it is of no kind that is known, holds nothing, or is damaged; with the line where that is known.
    """
    kind = find_kind(path)
    if kind is None:
        raise ValueError(f"{path} is no file of rows that is known here; these are: {KINDS}")
    if path.stat().st_size == 0 or has_no_rows(path):
        raise ValueError(f"{path} is empty; remove it, or fetch it again")
    _find_opener(path)  # refuses what nothing here unpacks; a host would take it for damaged
    try:
        options = find_dialect(path, kind) if _BUILDERS[kind] == "csv" else {}
        if column_names is not None:
            options["column_names"] = column_names
        elif _BUILDERS[kind] == "csv":
            lift_field_limit()
            with open_text(path) as table:
                check_header(read_first_lines(table, options) or [[]], options["sep"], str(path))
        rows = _build(path, _BUILDERS[kind], options, cache_dir)
    except (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read: {_explain(path, kind, error)}") from error
    try:
        rows.data.validate(full=True)  # JSON is read without a look at its encoding
    except ValueError as error:
        fault = explain_encoding(path) if _BUILDERS[kind] == "json" else _explain(path, kind, error)
        raise ValueError(f"{path} cannot be read: {fault}") from error
    if not len(rows):
        raise ValueError(f"{path} has no rows; remove it, or fetch it again")
    return rows


def _build(path: Path, builder: str, options: dict[str, Any], cache_dir: str | None) -> Dataset:
    from datasets import DownloadConfig, DownloadManager, load_dataset
    from datasets.exceptions import DatasetGenerationError

    file = str(path)
    if builder in ("parquet", "arrow") and path.suffix.lower() in _PACKED:
        # Their builders open a file before they unpack it.
        file = str(DownloadManager(download_config=DownloadConfig(cache_dir=cache_dir)).extract(file))
    try:
        if builder == "csv":
            with open_text(path) as table:
                options = read_as_texts(table, options)
        rows = load_dataset(builder, data_files=[file], split="train", cache_dir=cache_dir, **options)
        return restore_numbers(rows) if builder == "csv" else rows
    except StopIteration as error:  # what the builder makes of a file of nothing
        raise ValueError(f"{path} has no rows; remove it, or fetch it again") from error
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and not isinstance(cause, gzip.BadGzipFile):
            raise explain_cache(cause, cache_dir) from error
        raise ValueError(f"{path} cannot be read: {_explain(path, find_kind(path), cause)}") from error
    except OSError as error:
        raise explain_cache(error, cache_dir) from error
    except ValueError as error:  # pyarrow's errors are such
        if "corresponds to no data" in str(error):
            raise ValueError(f"{path} has no rows; remove it, or fetch it again") from error
        raise ValueError(f"{path} cannot be read: {_explain(path, find_kind(path), error)}") from error


def explain_cache(error: OSError, cache_dir: str | None) -> OSError:
    """Return an error that says what to do if nothing can be written where the rows are kept, or there is no room."""
    from datasets import config

    place = str(cache_dir or config.HF_DATASETS_CACHE)
    if error.errno in NO_ROOM:
        return OSError(
            error.errno,
            f"No room to keep the rows in the cache {place} ({os.strerror(error.errno)}); free some space, or pass a "
            "--cache_dir on a larger disk",
        )
    if error.errno is None or not place.startswith(str(error.filename)):
        return error
    return type(error)(
        error.errno,
        f"The rows cannot be kept in the cache {place} ({error.strerror}); set HF_HOME to a folder that can be "
        "written, or pass --cache_dir",
    )


def find_dialect(path: Path, kind: str) -> dict[str, Any]:
    """Find out how a CSV or TSV file separates and quotes: that is written nowhere.

    "NA" or "null" in a field is a text like any other, and not taken for a missing one.
    """
    with open_text(path) as file:
        header = file.readline()
    separator = "\t" if kind == ".tsv" else ","
    if separator not in header:
        other = next((one for one in ("\t", ";", ",") if one in header), separator)
        if other != separator:
            logger.warning(
                "%s is read with %r between its columns, for its first line has no %r", path, other, separator
            )
        separator = other
    options: dict[str, Any] = {"sep": separator, "keep_default_na": False}
    if separator == "\t" and not _is_quoted(path):
        options["quoting"] = csv.QUOTE_NONE
    return options


def _is_quoted(path: Path) -> bool:
    """Return whether the quotation marks of a TSV file enclose fields; in most they are part of the text."""
    lift_field_limit()
    try:
        with open_text(path) as file:
            rows = csv.reader(file, delimiter="\t", strict=True)
            width = len(next(rows, []))
            return all(len(row) == width for row in rows)
    except csv.Error:
        return False


def lift_field_limit() -> None:
    """Let the `csv` module read fields of any length; it stops at 131,072 characters otherwise."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


def open_text(path: Path) -> IO[str]:
    """Open a file of text, packed or not, as UTF-8; a byte-order mark is no part of the text."""
    return cast(IO[str], _find_opener(path)(path, "rt", encoding="utf-8-sig", newline=""))


def _find_opener(path: Path) -> Any:
    """Return the `open` of a kind of packing.

    Raises:
        ValueError: If what unpacks it is not installed.
    """
    ending = path.suffix.lower()
    if ending != ".zst":
        return {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(ending, open)
    try:
        return import_module("zstandard").open
    except ImportError as error:
        raise ValueError(
            f"{path} is packed by zstd, which needs `pip install zstandard`; or unpack it: zstd -d {path.name}"
        ) from error


def _explain(path: Path, kind: str | None, error: BaseException) -> str:
    """Say what is wrong with a file, and in which line where that can be told."""
    if isinstance(error, UnicodeDecodeError):
        return explain_encoding(path)
    if kind in (".jsonl", ".ndjson") and "column names don't match" in str(error):
        return _explain_fields(path)
    if kind in (".jsonl", ".ndjson", ".json"):
        try:
            with open_text(path) as file:
                number, is_lines = 0, not file.read(64).lstrip().startswith("[")
                file.seek(0)
                for line in file if is_lines else [file.read()]:
                    number += 1
                    if line.strip():
                        json.dumps(json.loads(line), ensure_ascii=False).encode()
        except json.JSONDecodeError as found:
            return f"line {number if is_lines else found.lineno} is no JSON ({found.msg}, column {found.colno})"
        except UnicodeEncodeError:
            return f"line {number} holds half a surrogate pair, which is no character; remove it"
        except UnicodeDecodeError:
            return explain_encoding(path)
        except EOFError as found:
            return str(found)
    return " ".join(str(error).split()) or type(error).__name__


def _explain_fields(path: Path) -> str:
    """Say which line is the first with a field that those before have not."""
    fields: set[str] = set()
    where = "its lines differ in their fields"
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            own = {*json.loads(line)} if line.strip() else fields
            if fields and (new := own - fields):
                where = f"line {number} has the field {min(new)!r}, which those before have not"
                break
            fields |= own
    return f"{where}; give every line the same fields, with null where there is nothing"


def explain_encoding(path: Path) -> str:
    """Say which line of a file is not UTF-8."""
    is_packed = path.suffix.lower() in _PACKED
    name = f"{path.stem} (of {path.name}, unpacked)" if is_packed else path.name
    with _find_opener(path)(path, "rb") as file:
        start = file.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return f"it is UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8 {name}"
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return (
                    f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x}); convert the file, from Latin-1 for "
                    f"instance: iconv -f LATIN1 -t UTF-8 {name}"
                )
    return "it is not UTF-8"
