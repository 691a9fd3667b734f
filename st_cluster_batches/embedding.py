"""Turn texts into unit vectors on disk, chunk by chunk, so that memory stays flat and a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

Key = Literal["query", "passage", "both"]
KEYS: tuple[Key, ...] = ("query", "passage", "both")

STATIC_PREFIX = "static:"

# Rows that an interruption can cost: a minute's work for a small transformer on a laptop, less than a second's for a
# static encoder, and enough rows for `encode` to sort by length.
CHUNK = 4096


def default_cache_dir() -> Path:
    """Return the folder for embeddings, labels and distilled models: one inside the datasets cache."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "st_cluster_batches"


def load_encoder(encoder: str | SentenceTransformer, cache_dir: Path) -> SentenceTransformer:
    """Load the model that embeds the texts to be clustered.

    Args:
        encoder: A model, or the path or Hub id of one. With the prefix `static:` the model is distilled to static
            token embeddings first (model2vec), about a hundred times faster on a CPU, and kept in the cache.
        cache_dir: Where distilled models are kept.

    Returns:
        A model in evaluation mode.

    Raises:
        ImportError: If model2vec is needed and missing.
    """
    from sentence_transformers import SentenceTransformer

    if not isinstance(encoder, str):
        return encoder.eval()
    if not encoder.startswith(STATIC_PREFIX):
        return SentenceTransformer(encoder).eval()
    name = encoder.removeprefix(STATIC_PREFIX)
    teacher = SentenceTransformer(name)
    target = cache_dir / f"static-{fingerprint_model(teacher)[:16]}"
    if not target.exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        _distil(name).save(str(partial), create_model_card=False)
        os.replace(partial, target)
    return SentenceTransformer(str(target)).eval()


def _distil(name: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    logger.info("Distilling %s to static token embeddings", name)
    try:
        return SentenceTransformer(modules=[StaticEmbedding.from_distillation(name)])
    except ImportError as error:
        raise ImportError(
            f"encoder='{STATIC_PREFIX}{name}' needs model2vec: pip install 'st-cluster-batches[static]'"
        ) from error


def fingerprint_model(model: SentenceTransformer) -> str:
    """Hash what decides a model's embeddings, so that neither vectors nor scores of another model are taken for its.

    Args:
        model: Any SentenceTransformer.

    Returns:
        Hexadecimal SHA-256 of weights, prompts, similarity, maximal length and truncation.
    """
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes, since numpy knows no bfloat16.
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    settings = {
        "modules": [str(module) for module in model],
        "prompts": model.prompts,
        "default_prompt_name": model.default_prompt_name,
        "similarity": str(model.similarity_fn_name),
        "max_seq_length": model.max_seq_length,
        # What truncates a dense model; a sparse one keeps its largest dimensions.
        "truncate_dim": getattr(model, "truncate_dim", getattr(model, "max_active_dims", None)),
    }
    state.update(json.dumps(settings, sort_keys=True).encode())
    return state.hexdigest()


def embed_rows(
    dataset: Dataset,
    columns: tuple[str, str | None],
    model: SentenceTransformer,
    key: Key,
    path: Path,
    *,
    batch_size: int,
    show_progress_bar: bool,
) -> npt.NDArray[np.float16]:
    """Embed the key texts of every row into a float16 array on disk; go on where an earlier call was killed.

    Args:
        dataset: The pairs, checked to hold no missing text.
        columns: Names of the query and the passage column.
        model: The encoder; its query and document prompts are used.
        key: The text that decides the cluster. `both` joins the unit vectors of query and passage.
        path: The `.npy` file; it exists only once it is complete.
        batch_size: Texts that the encoder sees at once.
        show_progress_bar: Whether to show progress.

    Returns:
        (n, d) float16 rows of unit length, memory-mapped.

    Raises:
        ValueError: If a vector is not finite or zero, with its row and text.
    """
    if path.exists():
        complete: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
        return complete
    partial, progress = path.with_suffix(".partial.npy"), path.with_suffix(".progress")
    vectors: Any = None
    done = 0
    if partial.exists() and progress.exists():
        vectors, done = np.load(partial, mmap_mode="r+"), int(progress.read_text())
        logger.info("Going on with row %d of %d", done, len(dataset))
    texts = dataset.with_format(None, columns=[column for column in columns if column is not None])
    bar = tqdm(total=len(dataset), initial=done, desc="Embedding", unit="row", disable=not show_progress_bar)
    while done < len(dataset):
        rows = texts[done : done + CHUNK]
        chunk = _encode(model, key, rows, columns, batch_size)
        _check_vectors(chunk, rows, first_row=done)
        if vectors is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (len(dataset), chunk.shape[1])
            vectors = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        vectors[done : done + len(chunk)] = chunk
        vectors.flush()
        done += len(chunk)
        write_atomically(progress, str(done))
        bar.update(len(chunk))
    bar.close()
    del vectors
    os.replace(partial, path)
    progress.unlink()
    result: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    return result


def write_atomically(path: Path, text: str) -> None:
    """Write a small file such that a reader finds the old text or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _encode(
    model: SentenceTransformer,
    key: Key,
    rows: dict[str, list[str]],
    columns: tuple[str, str | None],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    parts = []
    for side, column, encode in (
        ("query", columns[0], model.encode_query),
        ("passage", columns[1], model.encode_document),
    ):
        if key in (side, "both"):
            options = {"batch_size": batch_size, "show_progress_bar": False, "convert_to_numpy": True}
            part = np.asarray(encode(rows[str(column)], **options), dtype=np.float32)
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            # A zero vector stays zero here, to be reported with its row.
            parts.append(part / np.where(norms == 0, 1, norms))
    joined: npt.NDArray[np.float32] = np.concatenate(parts, axis=1)
    joined /= np.sqrt(len(parts))
    return joined


def _check_vectors(vectors: npt.NDArray[np.float32], rows: dict[str, list[str]], first_row: int) -> None:
    # Half a norm is missing where one of two parts is zero.
    bad = np.flatnonzero(~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.1))
    if len(bad):
        texts = {column: values[bad[0]][:80] for column, values in rows.items()}
        kind = "zero" if np.isfinite(vectors[bad[0]]).all() else "not finite"
        raise ValueError(
            f"The encoder's vector of row {first_row + bad[0]} is {kind} ({len(bad)} such rows nearby): {texts}. "
            "Remove these rows, or take an encoder that knows their words"
        )
