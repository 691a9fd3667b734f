"""Turn texts into unit vectors: which model does it, and how it is told from any other."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from st_cluster_batches.clusters.kmeans import widen
from st_cluster_batches.storage.cache import hash_values, write_whole
from st_cluster_batches.storage.chunks import ChunkedArray
from st_cluster_batches.storage.processes import Crew

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from st_cluster_batches.data.pairs import Pairs

logger = logging.getLogger(__name__)

Key = Literal["query", "passage", "both"]
KEYS: tuple[Key, ...] = ("query", "passage", "both")
Side = Literal["query", "passage"]

STATIC_PREFIX = "static:"

# Texts that the encoder sees at once, chosen by tests/bench/bench_attach.py encoders.
_BATCH_SIZE = 32
_STATIC_BATCH_SIZE = 2048


def sides_of(key: Key) -> tuple[Side, ...]:
    """Return the texts of a pair that a key is made of."""
    return ("query", "passage") if key == "both" else (key,)


@dataclass(frozen=True)
class Encoder:
    """A model that embeds texts, and all that decides its vectors.

    Args:
        model: Any SentenceTransformer; its query and document prompts are used.
        name: Its id, which says nothing of where it lies on this machine.
        truncate_dim: Keep the first so many dimensions, as Matryoshka models allow; all by default.
        batch_size: Texts that the model sees at once.
    """

    model: SentenceTransformer
    name: str
    truncate_dim: int | None
    batch_size: int

    @classmethod
    def load(
        cls,
        encoder: str | SentenceTransformer,
        cache_dir: Path,
        *,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
    ) -> Encoder:
        """Load a model; see `load_encoder` for its names and errors."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        model = load_encoder(encoder, cache_dir)
        if batch_size is None:
            batch_size = _STATIC_BATCH_SIZE if isinstance(model[0], StaticEmbedding) else _BATCH_SIZE
        return cls(model, _name_encoder(encoder), truncate_dim or model.truncate_dim, batch_size)

    @cached_property
    def digest(self) -> str:
        """Hash of weights, prompts, maximal length and truncation."""
        return fingerprint_model(self.model, self.truncate_dim)

    def describe(self) -> dict[str, Any]:
        """Return what a manifest needs to load this encoder again, and to know it."""
        return {
            "encoder": self.name,
            "encoder_hash": self.digest,
            "prompts": self.model.prompts,
            "max_seq_length": get_max_seq_length(self.model),
            "truncate_dim": self.truncate_dim,
        }

    def encode(self, side: Side, texts: Sequence[str], first_row: int = 0) -> npt.NDArray[np.float32]:
        """Embed the queries or the passages of some rows.

        Args:
            side: Which of the model's prompts to use.
            texts: n texts.
            first_row: Number of the first row, for error messages.

        Returns:
            (n, d) float32 rows of unit length.

        Raises:
            ValueError: If a vector is not finite or zero, with its row and text.
        """
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        vectors = np.asarray(
            encode(
                list(texts),
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
                truncate_dim=self.truncate_dim,
            ),
            dtype=np.float32,
        )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        is_bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
        if is_bad.any():
            at = int(is_bad.argmax())
            kind = "zero" if norms[at] == 0 else "not finite"
            raise ValueError(
                f"The encoder's vector of row {first_row + at} is {kind} ({is_bad.sum()} such rows nearby): {side} "
                f"{texts[at][:80]!r}. Remove these rows, or take an encoder that knows their words"
            )
        unit: npt.NDArray[np.float32] = vectors / norms
        return unit


@dataclass(frozen=True)
class KeyVectors:
    """The vectors that decide the clusters of some rows, on disk.

    Args:
        sides: The embeddings of queries, of passages, or both, which are joined row by row.
    """

    sides: tuple[ChunkedArray, ...]

    def read(self, chunk: int) -> npt.NDArray[np.float32]:
        """Return the (rows of the chunk, d) unit rows of a chunk."""
        return join_sides([widen(side.read(chunk)) for side in self.sides])

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Return the (n, d) unit rows of n rows in ascending order."""
        return join_sides([widen(side.take(rows)) for side in self.sides])


def join_sides(sides: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Join the unit vectors of queries and passages row by row to unit vectors again, as CDE does."""
    if len(sides) == 1:
        return sides[0]
    joined: npt.NDArray[np.float32] = np.concatenate(sides, axis=1)
    joined /= np.sqrt(np.float32(len(sides)))
    return joined


def embed_side(part: Pairs, side: Side, encoder: Encoder, crew: Crew) -> ChunkedArray:
    """Embed the queries or the passages of a dataset to disk, going on where an earlier call ended.

    Args:
        part: The pairs.
        side: Which text of them.
        encoder: The model.
        crew: The processes that share the work.

    Returns:
        (n, d) float16 rows of unit length; this process's share is complete.

    Raises:
        ValueError: If a vector is not finite or zero, with its row and text.
        OSError: If the disk is full.
    """
    column = part.text_columns[0 if side == "query" else 1]
    texts = part.dataset.with_format(None, columns=[column])
    array = ChunkedArray.at(crew.cache / f"embeddings-{hash_values(part.text_hash, encoder.digest, side)}", len(texts))

    def make(chunk: int) -> npt.NDArray[np.float16]:
        low, high = array.bounds(chunk)
        vectors = encoder.encode(side, texts[low:high][column], first_row=low)
        return torch.from_numpy(vectors).half().numpy()  # bit for bit as by numpy, which takes far longer

    array.fill(make, crew, "Embedding queries" if side == "query" else "Embedding passages")
    return array


def load_encoder(encoder: str | SentenceTransformer, cache_dir: Path) -> SentenceTransformer:
    """Load the model that embeds the texts to be clustered.

    Args:
        encoder: A model, or the path or Hub id of one. With the prefix `static:` the model is distilled to static
            token embeddings first (model2vec), hundreds of times as fast on a CPU, and kept in the cache.
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
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(target) as temporary:
            _distil(name).save(str(temporary), create_model_card=False)
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


def get_max_seq_length(model: SentenceTransformer) -> int | None:
    """Return the tokens that a model reads of a text; None if all, as static models do."""
    length = model.max_seq_length
    return None if length is None or not math.isfinite(length) else int(length)


def fingerprint_model(model: SentenceTransformer, truncate_dim: int | None = None) -> str:
    """Hash what decides a model's embeddings, so that neither vectors nor scores of another model are taken for its.

    Args:
        model: Any SentenceTransformer.
        truncate_dim: Truncation, if other than the model's own.

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
        "truncate_dim": truncate_dim or getattr(model, "truncate_dim", getattr(model, "max_active_dims", None)),
    }
    state.update(json.dumps(settings, sort_keys=True).encode())
    return state.hexdigest()


def _name_encoder(encoder: str | SentenceTransformer) -> str:
    """Name an encoder without giving away where it lies on this machine."""
    if not isinstance(encoder, str):
        return str(encoder.model_card_data.base_model or type(encoder).__name__)
    prefix = STATIC_PREFIX if encoder.startswith(STATIC_PREFIX) else ""
    name = encoder.removeprefix(prefix)
    return prefix + (Path(name).resolve().name if Path(name).exists() else name)
