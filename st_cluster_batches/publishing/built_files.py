"""What an earlier build wrote into a folder: these files alone are ever replaced or removed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from st_cluster_batches.storage.cache import read_json, write_atomically

BUILT_FILES = ".built.json"  # hashes of the files that the last build wrote, in the folder itself; never published


def refuse_other_files(folder: Path, editable: str) -> None:
    """Raise a ValueError if a folder holds anything but the files of an earlier build, as it wrote them.

    Args:
        folder: The folder, which may be absent or empty.
        editable: The file that people may have edited, since a build keeps their text.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give another --output, or remove it")
    paths = [path for path in folder.rglob("*") if not path.is_dir()] if folder.exists() else []
    if not paths and (not folder.exists() or not any(folder.iterdir())):
        return
    index = folder / BUILT_FILES
    known = read_json(index) if index.is_file() else {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name == BUILT_FILES or (name == editable and name in known):
            continue
        if name not in known:
            raise ValueError(f"{folder} holds {name}, which no build left there; give another --output, or remove it")
        if _hash_file(path) != known[name]:
            raise ValueError(
                f"{folder} holds {name}, which was changed since it was built, and nothing was overwritten; give "
                "another --output, or remove it"
            )
    if not known:
        raise ValueError(f"{folder} holds folders that no build left there; give another --output, or remove it")


def list_files(folder: Path) -> list[Path]:
    """List all files below a folder, sorted; but for those of git and of download caches."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not {".git", ".cache", BUILT_FILES} & set(path.relative_to(folder).parts)
    )


def list_built_files(folder: Path) -> None:
    """Write down which files a build has put into a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): _hash_file(path) for path in paths}
    write_atomically(folder / BUILT_FILES, json.dumps(hashes, indent=1) + "\n")


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
