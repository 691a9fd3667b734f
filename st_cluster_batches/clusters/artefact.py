"""The folder in which a clustering lies: what its files are called, and where it is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    return manifest
