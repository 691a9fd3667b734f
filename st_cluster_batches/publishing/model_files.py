"""Which files of a folder are a saved model, to be published, and which are what its training left beside them."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from st_cluster_batches.batches.card_block import PLAN_FILE
from st_cluster_batches.clusters.artefact import CENTROIDS_FILE, MANIFEST_FILE
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER
from st_cluster_batches.evaluation.report import RESULTS_FILE, TABLE_FILE
from st_cluster_batches.publishing.built_files import list_files
from st_cluster_batches.storage.cache import read_json
from st_cluster_batches.training.folder import (
    ATTACHED_FILE,
    CLUSTERING_FOLDER,
    EVALUATION_FOLDER,
    GUIDED_FILE,
    HUB_IDS_FILE,
    MODEL_FOLDER,
    RECIPE_FILE,
    STARTED_FILE,
    is_run,
)

logger = logging.getLogger(__name__)

CARD = "README.md"

# Of whatever else lies there, logs and environments above all, the names are told.
_SUFFIXES = {
    ".bin", ".codes", ".data", ".jinja", ".json", ".md", ".model", ".npy", ".npz", ".onnx", ".onnx_data", ".pt", ".py",
    ".safetensors", ".spm", ".tiktoken", ".txt", ".vocab", ".xml", ".yaml", ".yml",
}  # fmt: skip
_FOLDERS = {"additional_chat_templates", "assets", "onnx", "openvino"}
_OF_RUNS = (
    *(MANIFEST_FILE, CENTROIDS_FILE, ATTACHED_FILE, GUIDED_FILE, HUB_IDS_FILE, RECIPE_FILE, STARTED_FILE),
    *(PLAN_FILE, RESULTS_FILE, TABLE_FILE, TRAINER_STATE_NAME),
)
# By whole names: modules with code of their own may well be called state_pooling.py.
_TRAINING_FILE = re.compile(
    r"training_args\.bin|(optimizer|scheduler|scaler)(_\d+)?\.(pt|bin)|rng_state(_\d+)?\.pth|random_states_\d+\.pkl"
    r"|pytorch_model_fsdp(_\d+)?\.bin|(all|train|eval|predict|test)_results\.json"
    r"|(dataset_info|state)\.json|.*\.arrow|events\.out\.tfevents\..*"
    rf"|{'|'.join(map(re.escape, _OF_RUNS))}"
)
_TRAINING_FOLDER = re.compile(
    rf"{PREFIX_CHECKPOINT_DIR}-\d+|runs|wandb|eval|__pycache__|optimizer(_\d+)?|pytorch_model_fsdp(_\d+)?"
    rf"|{'|'.join((CLUSTERING_FOLDER, EVALUATION_FOLDER, HELD_OUT_FOLDER, MODEL_FOLDER))}"
)


def find_model(folder: Path) -> Path:
    """Return the folder of the model in a folder: itself, or `model/` below it.

    In the output folder of `train` it is `model/`, since with push_to_hub the trainer saves a model in the folder
    itself, too, and the next run may leave that one as it is.

    Raises:
        FileNotFoundError: If there is none.
    """
    places = (folder, folder / MODEL_FOLDER)
    for one in reversed(places) if is_run(folder) else places:
        if any(
            (one / file).is_file() for file in ("modules.json", "config_sentence_transformers.json", "config.json")
        ):
            return one
    raise FileNotFoundError(
        f"{folder} holds no sentence-transformers model (no modules.json); give the folder that model.save() or "
        "`st-cluster-batches train` filled"
    )


def list_model_files(model: Path) -> list[Path]:
    """List the files of a model but for its card, with a warning of those that are neither its nor its training's."""
    modules = read_json(model / "modules.json") if (model / "modules.json").is_file() else []
    folders = _FOLDERS | {Path(module["path"]).parts[0] for module in modules if module["path"]}
    found, others = [], set()
    for path in list_files(model):
        parts = path.relative_to(model).parts
        is_inside = len(parts) == 1 or parts[0] in folders
        if any(part.startswith(".") for part in parts) or parts == (CARD,) or _TRAINING_FILE.fullmatch(path.name):
            continue
        if is_inside and path.suffix in _SUFFIXES:
            found.append(path)
        elif is_inside or not _TRAINING_FOLDER.fullmatch(parts[0]):
            others.add("/".join(parts) if is_inside else f"{parts[0]}/")
    if others:
        logger.warning(
            "%d files or folders in %s are left out, for they look like no part of the model: %s. What it needs of "
            "them, copy into the folder that `st-cluster-batches build` fills, before you publish that folder",
            len(others),
            model,
            ", ".join(sorted(others)),
        )
    return found
