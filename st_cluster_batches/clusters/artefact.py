"""The folder in which a clustering lies: what its files are called, and where it is found."""

from __future__ import annotations

from pathlib import Path

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
            if all((folder / file).is_file() for file in files):
                return folder
    raise FileNotFoundError(f"{name} is neither a folder here nor a clustering on the Hub") from failure
