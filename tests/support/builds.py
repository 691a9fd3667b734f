"""Folders that `build` fills."""

from __future__ import annotations

from pathlib import Path

from st_cluster_batches.__main__ import main
from st_cluster_batches.publishing.built_files import BUILT_FILES


def build(trained: Path, *words: str) -> Path:
    output = trained.parent / "stage"
    assert main(["build", str(trained), "--output", str(output), *words]) == 0
    return output


def read_files(folder: Path) -> dict[str, bytes]:
    """Read what may be published: all but the list of the files that were built."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != BUILT_FILES]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
