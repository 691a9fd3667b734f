"""The folder in which a clustering lies: what its files are called, and where it is found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from st_cluster_batches.clusters.encoder import STATIC_PREFIX, Encoder
from st_cluster_batches.storage.cache import read_json, write_whole

CENTROIDS_FILE = "centroids.safetensors"
MANIFEST_FILE = "clustering.json"
ENCODER_FOLDER = "encoder"


def find_folder(name: str | Path) -> Path:
    """Return the folder of a clustering, fetched from the Hub if there is no such folder here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [CENTROIDS_FILE, MANIFEST_FILE]
    if Path(name).is_dir():
        for file in files:
            if not (Path(name) / file).is_file():
                raise FileNotFoundError(f"{name} holds no clustering: {file} is missing; Clustering.save writes it")
        return Path(name)
    failure: Exception | None = None
    for kind in ("dataset", "model"):
        try:
            wanted = [*files, f"{ENCODER_FOLDER}/*"]
            folder = Path(snapshot_download(str(name), repo_type=kind, allow_patterns=wanted))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            failure = error
        else:
            if has_clustering(folder):
                return folder
    raise FileNotFoundError(f"{name} is neither a folder here nor a clustering on the Hub") from failure


def has_clustering(folder: Path) -> bool:
    """Whether a clustering lies in a folder."""
    return all((folder / file).is_file() for file in (CENTROIDS_FILE, MANIFEST_FILE))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what a clustering says of itself, without its centroids."""
    manifest: dict[str, Any] = read_json(folder / MANIFEST_FILE)
    return manifest


def save_encoder(encoder: Encoder | None, name: str, folder: Path) -> None:
    """Write a distilled encoder, or copy the one that was loaded with the clustering; of any other the name is enough.

    Args:
        encoder: The encoder of the clustering, if it has one.
        name: Its name in the manifest.
        folder: Where it goes; what lies there is replaced.
    """
    given = None if encoder is None else encoder.given
    saved = Path(given) if isinstance(given, str) and Path(given).is_dir() else None
    if saved is not None and saved.resolve() == folder.resolve():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if encoder is None or not name.startswith(STATIC_PREFIX):
        return
    with write_whole(folder) as temporary:
        if saved is not None:
            shutil.copytree(saved, temporary)
        else:
            encoder.model.save(str(temporary), create_model_card=False)
