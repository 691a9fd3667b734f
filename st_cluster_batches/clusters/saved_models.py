"""Saved models of sentence-transformers: of which kind one is, and which one is nowhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from st_cluster_batches.storage.cache import read_json

logger = logging.getLogger(__name__)


def read_kind(name: str, is_local: bool = False) -> str | None:
    """Return which kind of model of sentence-transformers has been saved, as its own configuration says.

    Args:
        name: A folder, or a Hub id.
        is_local: Whether the Hub is not to be asked.
    """
    from sentence_transformers.util import load_file_path

    config = load_file_path(name, "config_sentence_transformers.json", local_files_only=is_local)
    return None if config is None else read_json(Path(config)).get("model_type")


def is_classifier(name: str) -> bool:
    """Return whether a model is one of transformers that classifies, as a CrossEncoder was saved in earlier versions.

    Args:
        name: A folder, or a Hub id.
    """
    from sentence_transformers.util import load_file_path

    config = load_file_path(name, "config.json")
    if config is None or load_file_path(name, "modules.json") is not None:
        return False
    architectures = read_json(Path(config)).get("architectures") or []
    return any(one.endswith("ForSequenceClassification") for one in architectures)


def warn_of_raw(name: str) -> None:
    """Warn of a model of transformers alone, whose token vectors sentence-transformers averages without a word."""
    from sentence_transformers.util import load_file_path

    if read_kind(name) is not None or load_file_path(name, "modules.json") is not None:
        return
    if load_file_path(name, "config.json") is not None:  # where there is nothing at all, the host's error says so
        logger.warning(
            "%s is no model of sentence-transformers: it has no modules.json. The vector of a text is the mean of its "
            "token vectors, which nobody has trained for that; take a model that is one, unless this is the start of "
            "a training that you want to measure",
            name,
        )


@contextmanager
def naming_model(name: str) -> Iterator[None]:
    """Name the model that can be loaded from nowhere: a host's own message speaks of the connection alone."""
    try:
        yield
    except OSError as error:
        if error.errno is not None or Path(name).exists():
            raise  # a disk, or a file of the model
        message = f"{name} is neither a folder here nor a model that the Hub gives: {error}"
        raise FileNotFoundError(" ".join(message.split())) from error
