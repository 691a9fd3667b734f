"""Which files and datasets are splits of one whole: people mean to train on `train`, and to test on the others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

from st_cluster_batches.data.files import strip_ending

TRAIN = "train"

# As the `datasets` library reads file names.
_WORDS = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_SHARD = re.compile(r"[-_.]?\d+([-_]of[-_]\d+)?$")
_PART = re.compile(r"(part|chunk|shard|data|file)[-_.]?\d+([-_.].*)?|\d+|part|data")

Value = TypeVar("Value")


def find_split(name: str) -> str | None:
    """Return the split that a name speaks of, such as `test` for `nq-test` or `test.clean`; None if of none."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLIT_OF_WORD]
    return _SPLIT_OF_WORD[words[-1]] if words else None


def are_splits(names: Iterable[str]) -> bool:
    """Return whether names are those of splits, and not all of them of training data: then they are sources."""
    found = [find_split(name) for name in names]
    return None not in found and (set(found) != {TRAIN} or len(found) == 1)


def choose_splits(parts: Mapping[str, Value], wanted: str | None, where: str) -> dict[str, Value]:
    """Choose splits by name.

    Args:
        parts: What is there by the name of its split.
        wanted: Names of splits joined by `+`; `train` if None. Another word for the same split will do.
        where: Whatever holds the splits, as an error message names it.

    Returns:
        The chosen ones.

    Raises:
        ValueError: If there is no such split.
    """
    chosen: dict[str, Value] = {}
    for word in (wanted or TRAIN).split("+"):
        own = {word: parts[word]} if word in parts else {}
        own = own or {name: one for name, one in parts.items() if find_split(name) == _SPLIT_OF_WORD.get(word, word)}
        if not own:
            raise ValueError(
                f"{where} has no split {word!r}, only {', '.join(map(repr, parts))}; choose one of these: "
                f"--split {next(iter(parts))}, in a recipe `split: {next(iter(parts))}`"
            )
        chosen.update(own)
    return chosen


def sort_files(files: Sequence[PurePath]) -> dict[str, list[PurePath]]:
    """Sort the files of a folder by split.

    Files that speak of no split belong to `train`, unless others are called just that.

    Args:
        files: Paths relative to the folder.

    Returns:
        Files by split; those beside a whole split `train` that speak of none are under an empty name.
    """
    found: dict[str, list[PurePath]] = {}
    has_train = any(_find_whole_split(file) == TRAIN for file in files)
    for file in files:
        split = _find_whole_split(file) or find_split(strip_ending(file.name))
        found.setdefault(split or ("" if has_train else TRAIN), []).append(file)
    return found


def name_source(file: PurePath) -> str:
    """Return the name of the source that a file holds: its own, or its folder's where it is a split or a shard.

    Args:
        file: Path relative to the folder that is read.

    Returns:
        The name; `train` and its like where there is no other.
    """
    stem = (
        _SHARD.sub("", strip_ending(file.name))
        if re.search(r"[-_]of[-_]\d+$", strip_ending(file.name))
        else strip_ending(file.name)
    )
    if _find_whole_split(PurePath(file.name)) or not stem or _PART.fullmatch(stem):
        folders = [one for one in file.parent.parts if one != "data" and one.lower() not in _SPLIT_OF_WORD]
        return folders[-1] if folders else TRAIN
    return stem


def name_sources(files: Sequence[PurePath]) -> list[str]:
    """Return the source that each of several files holds, with its folder where another has a file of that name."""
    names = [name_source(file) for file in files]
    folders: dict[str, set[str]] = {}
    for name, file in zip(names, files, strict=True):
        folders.setdefault(name, set()).add(file.parent.name)
    return [
        f"{file.parent.name}/{name}" if len(folders[name]) > 1 and name != TRAIN and file.parent.name != name else name
        for name, file in zip(names, files, strict=True)
    ]


def _find_whole_split(file: PurePath) -> str | None:
    """Return the split that a file is by its whole name but for a shard's number, or by that of its folder."""
    stem = _SHARD.sub("", strip_ending(file.name)).lower()
    folders = [folder.lower() for folder in file.parent.parts]
    return next((_SPLIT_OF_WORD[word] for word in (stem, *reversed(folders)) if word in _SPLIT_OF_WORD), None)
