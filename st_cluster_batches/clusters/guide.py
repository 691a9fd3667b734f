"""The stored vectors as a guide: a row carries its key, and whoever has the key finds the row's vectors."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.guide_index import PREFIX, GuideIndex, RowKeys, make_row_keys, write_guide
from st_cluster_batches.clusters.vectors import PairVectors, Vectors
from st_cluster_batches.column_values import sample_rows
from st_cluster_batches.columns import LABEL_COLUMNS, list_parts
from st_cluster_batches.data.roles import TEXT, find_contents
from st_cluster_batches.data.texts import hash_rows
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS, ROW_KEY, check_keys, has_row_keys, read_marks
from st_cluster_batches.storage.cache import default_cache_dir, hash_values

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

VECTORS_FOLDER = "vectors"  # of the guide, beside labelled rows that `attach` has written
_CHECKED_ROWS = 100  # whose texts are compared with their keys


def copy_guides(dataset: Dataset | DatasetDict, target: Path) -> None:
    """Put the vectors of labelled rows beside them, so that both can be taken elsewhere.

    Files are linked where the file system can, and take no room then.

    Args:
        dataset: Rows with row keys, or without: then nothing is copied.
        target: The folder to be filled.
    """
    for index in {index.path: index for part in list_parts(dataset) for index in _find_indices(part)}.values():
        for name in index.files:
            source, copy = index.path.parent / name, target / VECTORS_FOLDER / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir() and not copy.exists():
                shutil.copytree(source, copy, copy_function=_link_or_copy)
            elif not copy.exists():
                _link_or_copy(str(source), str(copy))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


@dataclass(frozen=True)
class GuideVectors:
    """Stored vectors of queries, positives and negatives, found by row key.

    Args:
        indices: Of one or more datasets under one encoder.
    """

    indices: tuple[GuideIndex, ...]

    @classmethod
    def open(cls, guide: Dataset | DatasetDict | PairVectors | str | Path) -> GuideVectors:
        """Open the vectors that `attach_clusters(..., guide=True)` has stored.

        Args:
            guide: The labelled rows, whose vectors lie beside them or in the cache; a folder with such vectors, as
                `attach --guide` and `cache_dir=` have it; or the vectors of pairs.

        Raises:
            ValueError: If there are no vectors, or those of several encoders.
        """
        if isinstance(guide, PairVectors):
            found = [GuideIndex.read(write_guide(guide))]
        elif isinstance(guide, str | Path):
            found = [*_list_indices([Path(guide)])]
            if not found:
                raise ValueError(
                    f"{guide} holds no vectors of a guide; attach writes them: st-cluster-batches attach DATA "
                    f"{guide} --encoder E --guide"
                )
        else:
            parts = list_parts(guide)
            if not all(hasattr(part, "cache_files") for part in parts):
                raise TypeError(
                    "guide= takes rows that attach_clusters(dataset, encoder, guide=True) has labelled, or the folder "
                    f"of their vectors, not {type(guide).__name__}; for a model as guide, which embeds every batch "
                    "anew, take GISTEmbedLoss"
                )
            for part in parts:
                check_keys(part)
            if not any(has_row_keys(part) for part in parts):
                raise ValueError(
                    f"The guide has no row keys, a column {ROW_KEY!r} by which its vectors are found: pass "
                    "attach_clusters(dataset, encoder, guide=True)"
                )
            found = list({index.path.name: index for part in parts for index in _find_indices(part)}.values())
            for part in parts:
                cls(tuple(found)).check_rows(part)
        names = {index.content["encoder_hash"]: index.content["encoder"] for index in found}
        if len(names) > 1:
            raise ValueError(
                f"The guide's vectors are of {len(names)} encoders, {sorted(names.values())}, whose similarities "
                "cannot be compared; attach all rows with one of them, or pass the rows of one as guide="
            )
        return cls(tuple(found))

    @classmethod
    def open_index(cls, path: Path) -> GuideVectors:
        """Open the vectors of one index, as `write_guide` returns it."""
        return cls((GuideIndex.read(path),))

    @property
    def encoder(self) -> str:
        """The name of the encoder."""
        return str(self.indices[0].content["encoder"])

    @property
    def digest(self) -> str:
        """Hash of the vectors, by the texts and the encoder that they come from."""
        return hash_values(sorted(index.path.name for index in self.indices))

    def take(self, keys: RowKeys, n_columns: int) -> tuple[list[Vectors], npt.NDArray[np.bool_]]:
        """Return the vectors of some rows.

        Args:
            keys: n row keys in any order.
            n_columns: Of query, positive, negatives, how many to return.

        Returns:
            (n, d) unit vectors of each column, zero where a row is not known; and (n,) whether it is known.
        """
        is_known = np.zeros(len(keys), dtype=bool)
        taken: list[Vectors] = []
        for index in self.indices:
            rows = index.find(keys)
            at = np.flatnonzero((rows >= 0) & ~is_known)
            if not len(at) or len(index.vectors) < n_columns:
                continue
            is_known[at] = True
            for column, stored in enumerate(index.vectors[:n_columns]):
                if len(taken) <= column:
                    taken.append(np.zeros((len(keys), stored.dimensions), dtype=np.float32))
                taken[column][at] = stored.take(rows[at])
        return taken or [np.zeros((len(keys), 1), dtype=np.float32)] * n_columns, is_known

    def refuse_more_columns(self, keys: RowKeys, n_columns: int) -> None:
        """Raise a ValueError if rows are known, but their vectors are of fewer columns than a batch has."""
        for index in self.indices:
            if (index.find(keys) >= 0).any() and len(index.vectors) < n_columns:
                columns = index.content["columns"]
                raise ValueError(
                    f"A batch shows {n_columns} columns of texts, and the guide has vectors of {len(columns)}: "
                    f"{columns}. Another column is taken for a text, as a stock sampler takes labels; show the texts "
                    f"and their key alone: train.select_columns({[*columns, ROW_KEY]}), or attach again with all: "
                    "attach_clusters(dataset, encoder, columns=(...), guide=True)"
                )

    def check_rows(self, part: Dataset) -> None:
        """Check that the texts of some rows, evenly of all, are in order those that the vectors were made of.

        Args:
            part: Rows with row keys, as they are trained on.

        Raises:
            ValueError: If a guide would judge one text by the vectors of another.
        """
        if not has_row_keys(part) or not len(part):
            return
        table = part.with_format("arrow").select(sample_rows(len(part), _CHECKED_ROWS))[:]
        keys = read_marks(table[ROW_KEY].to_numpy())[0]
        known = [index.find(keys) >= 0 for index in self.indices]
        n_known = int(np.any(known, axis=0).sum())
        unknown = f"of {len(table):,} rows that were looked up: their row keys are of another encoder, or of rows that"
        mend = "are not in guide=. Pass what is trained on, all of it where there are several datasets: guide=train"
        if not n_known:
            raise ValueError(f"The guide, {self.encoder!r}, has vectors of none {unknown} {mend}")
        if n_known < len(keys):
            logger.warning(
                "The guide, %r, has no vectors of %d %s %s. Nothing is masked for them",
                self.encoder,
                len(keys) - n_known,
                unknown,
                mend,
            )
        for index, is_here in zip(self.indices, known, strict=True):
            columns = index.content["columns"]
            # As the collator takes them, in the order in which the rows show them.
            labels = {*LABEL_COLUMNS, *NO_TEXT_COLUMNS} - set(columns)
            texts = [name for name, held in find_contents(part).items() if held == TEXT and name not in labels]
            texts = texts[: len(columns)]  # what is behind may be labels of the user's own, which samplers hide
            is_same = not is_here.any()
            if not index.content.get("has_own_keys", True):  # refreshed vectors go by the keys that rows have
                is_same = texts == columns
            elif set(texts) <= set(table.column_names):
                made = make_row_keys(hash_rows(table, texts), index.content["encoder_hash"])
                is_same = bool((made == keys)[is_here].all())
            if not is_same and texts != columns[: len(texts)]:
                raise ValueError(
                    f"The rows show the texts {texts}, but their vectors are, in order, those of {columns}: a guide "
                    "would compare one with the other. Show those first, by select_columns, or attach again: "
                    f"attach_clusters(dataset, encoder, columns={tuple(texts)!r}, guide=True, overwrite=True)"
                )
            # Of fewer columns no key can be made again, and of a transform's texts neither.
            if not is_same and texts == columns and part.format["type"] != "custom":
                raise ValueError(
                    f"The texts {texts} are others than those that the vectors were made of: a guide would judge what "
                    "no longer is there. Attach again: attach_clusters(dataset, encoder, guide=True, overwrite=True)"
                )


def _list_indices(folders: Sequence[Path]) -> Iterator[GuideIndex]:
    """Yield the indices in some folders or in `vectors` below, each once, if all that they name is there."""
    seen = set()
    for folder in folders:
        for place in (folder, folder / VECTORS_FOLDER):
            for path in sorted(place.glob(f"{PREFIX}*.json")):
                if path.name not in seen and (index := GuideIndex.read(path)).is_complete:
                    seen.add(path.name)
                    yield index


def _find_indices(part: Dataset) -> list[GuideIndex]:
    """Find the indices that hold the row keys of a dataset: beside its files, or in the cache."""
    if not has_row_keys(part):
        return []
    folders = [Path(file["filename"]).parent for file in part.cache_files]
    folders = list(dict.fromkeys([*folders, *(folder.parent for folder in folders), default_cache_dir()]))
    keys = part.with_format("arrow", columns=[ROW_KEY])[:][ROW_KEY].to_numpy()
    found: list[GuideIndex] = []
    is_known = np.zeros(len(keys), dtype=bool)
    for index in _list_indices(folders):
        is_here = index.find(keys) >= 0
        if (is_here & ~is_known).any():
            found.append(index)
            is_known |= is_here
    if not is_known.all():
        message = (
            f"{(~is_known).sum():,} of {len(keys):,} rows have no vectors in {', '.join(map(str, folders))}. Attach "
            "them here: attach_clusters(dataset, encoder, guide=True, overwrite=True), or pass the folder that holds "
            "their vectors: guide=FOLDER"
        )
        if not is_known.any():
            raise ValueError(message)
        logger.warning("%s. Without them, no negative of such a row is masked, nor is it masked for others", message)
    return found
