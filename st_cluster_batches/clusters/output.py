"""The folder that `attach` leaves: labelled rows, their clustering and any vectors, all old or all new."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np

from st_cluster_batches.clusters.artefact import CENTROIDS_FILE, ENCODER_FOLDER, MANIFEST_FILE
from st_cluster_batches.clusters.assigning import number_clusters
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.clusters.guide import VECTORS_FOLDER, copy_guides
from st_cluster_batches.columns import CLUSTER
from st_cluster_batches.data.files import find_kind
from st_cluster_batches.data.naming import name_file
from st_cluster_batches.storage.cache import make_folder, read_json, recover_folder, replace_folder
from st_cluster_batches.storage.claims import LOCK_FILE

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

_DATA_FILES = ("dataset_dict.json", "dataset_info.json", "state.json")
_OWN = {*_DATA_FILES, CENTROIDS_FILE, MANIFEST_FILE, ENCODER_FOLDER, VECTORS_FOLDER}


def is_saved_data(folder: Path) -> bool:
    """Return whether a folder is one that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` filled."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def check_output(out: Path) -> None:
    """Check that a folder can be written beside, and be replaced: by a new one, an empty one, or an earlier output.

    Raises:
        ValueError: If something else is there.
        OSError: If its parent folder cannot be written.
    """
    parent = out.resolve().parent
    make_folder(parent)
    recover_folder(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a folder is needed")
    others = [path.name for path in out.iterdir() if path.name != LOCK_FILE] if out.is_dir() else []
    if others and not is_saved_data(out):
        raise ValueError(
            f"{out} holds files that `attach` has not written, such as {min(others)}; it would replace the folder. "
            f"Name one that is new: {out / 'labelled'}"
        )
    if os.path.ismount(out):
        raise ValueError(f"{out} is a mount point, which cannot be replaced; name a folder in it: {out / 'labelled'}")


def refuse_rows(folder: Path) -> None:
    """Refuse a folder of rows for results, which would be read as more of them from then on.

    Raises:
        ValueError: If rows lie there.
    """
    present = folder.iterdir() if folder.is_dir() else ()
    files = [path.name for path in present if find_kind(path) not in (None, ".json")]
    if files or is_saved_data(folder):
        which = f", such as {min(files)}" if files else ""
        raise ValueError(
            f"{folder} holds rows{which}, and results there would be read as more of them; name a folder of their "
            f"own: {folder / 'results'}"
        )


def check_names(data: Dataset | DatasetDict) -> None:
    """Check that the datasets of a dict can be folders of the output, by whose names they are found again.

    Raises:
        ValueError: If a name is no name of a folder, such as one with a slash.
    """
    for name in data if isinstance(data, dict) else ():
        if PurePosixPath(name).name != name or PureWindowsPath(name).name != name or set(name) <= {"."}:
            raise ValueError(
                f"The dataset {name!r} of the dict cannot be a folder of that name; rename it before it is labelled, "
                f"for instance to {name_file(name)!r}"
            )


def write_output(out: Path, labelled: Dataset | DatasetDict, clustering: Clustering) -> None:
    """Write labelled rows and their clustering beside the folder, and put them in its place once all is written.

    What else lies in the folder, such as a report, stays there.

    Args:
        out: The folder, checked by `check_output`. The rows may come from its files.
        labelled: The rows; the names of a dict are checked by `check_names`.
        clustering: What labelled them.
    """
    if (out / MANIFEST_FILE).is_file():
        _tell_of_other_texts(out, clustering)
    with replace_folder(out, lambda path: path.name in _OWN or _is_data(path)) as temporary:
        labelled.save_to_disk(str(temporary))
        clustering.save(temporary)
        copy_guides(labelled, temporary)


def _tell_of_other_texts(out: Path, clustering: Clustering) -> None:
    """Warn of labelled rows of other texts that are to be replaced."""
    try:
        earlier = read_json(out / MANIFEST_FILE)
    except ValueError as error:
        logger.warning("%s. It is replaced, with all that `attach` wrote beside it", error)
        return
    if earlier.get("data_hash") != clustering.manifest.get("data_hash"):
        n_rows = sum(one["rows"] for one in earlier["statistics"].values())
        logger.warning("%s held %s labelled rows of other texts, which these replace", out, f"{n_rows:,}")


def check_belonging(folder: Path, parts: Iterable[Dataset]) -> None:
    """Check that the clusters of the rows are those of the clustering beside them.

    Args:
        folder: Where the clustering lies.
        parts: The labelled rows.

    Raises:
        ValueError: If a row has a cluster that the clustering does not know.
    """
    clustering = Clustering.load(folder)
    known = np.concatenate(
        [
            first + np.arange(len(clustering.centroids[name]))
            for name, first in number_clusters(clustering.centroids).items()
        ]
    )
    for part in parts:
        for table in part.with_format("arrow", columns=[CLUSTER]).iter(batch_size=100_000):
            if (strange := np.setdiff1d(table[CLUSTER].to_numpy(), known)).size:
                raise ValueError(
                    f"{folder}: the rows and the clustering beside them do not belong together: rows have the cluster "
                    f"{strange[0]}, which {MANIFEST_FILE} does not know. Write both anew: st-cluster-batches attach "
                    "DATA OUT --encoder E"
                )


def _is_data(path: Path) -> bool:
    """Return whether a path is rows: an Arrow file of `datasets`, or a dataset of a DatasetDict."""
    return path.suffix == ".arrow" or (path.is_dir() and (path / "state.json").is_file())
