"""The model that embeds texts: loaded when it is first needed, and told from any other by a fingerprint."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.clusters.saved_models import naming_model, read_kind, warn_of_raw
from st_cluster_batches.data.pairs import Side
from st_cluster_batches.storage.cache import write_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

STATIC_PREFIX = "static:"

# Texts that the encoder sees at once, by tests/bench/bench_attach.py. With 128 an H200 embeds queries 1.9 times as
# fast as with 32, with 256 2.4 times; passages by a sixth. 128 leaves room for larger models on smaller GPUs: a guess.
_BATCH_SIZE = 32
_GPU_BATCH_SIZE = 128
_STATIC_BATCH_SIZE = 2048
_ROWS_IN_A_PART = 1024
_NEEDED = "clustering needs one dense vector of each text, so pass a SentenceTransformer, or the path or Hub id of one"


@dataclass(frozen=True)
class Encoder:
    """A model that embeds texts, loaded when it is first needed.

    Args:
        given: A SentenceTransformer, or the path or Hub id of one, perhaps with the prefix `static:`.
        cache_dir: Where distilled models are kept.
        truncate_dim: Keep the first so many dimensions, as Matryoshka models allow; all by default.
        batch_size: Texts that the model sees at once; by the kind of model if None.
        manifest: Of a clustering that was made with this encoder. A model loaded by name gets the prompts and the
            maximal length of then, and any other model is refused.
        trust_remote_code: Whether code that comes with the model may run.
    """

    given: str | Path | SentenceTransformer
    cache_dir: Path = field(repr=False)
    truncate_dim: int | None = None
    batch_size: int | None = None
    manifest: Mapping[str, Any] | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.given, os.PathLike):
            object.__setattr__(self, "given", os.fspath(self.given))
        if not isinstance(self.given, str):
            check_encoder(self.given)

    @cached_property
    def model(self) -> SentenceTransformer:
        """The model in evaluation mode; its query and document prompts are used.

        Raises:
            ValueError: If it is not the one of the manifest, or has fewer dimensions than are to be kept.
        """
        if self.manifest is None:
            model = load_encoder(self.given, self.cache_dir, self.trust_remote_code)
            if isinstance(self.given, str) and not self.given.startswith(STATIC_PREFIX):
                warn_of_raw(self.given)
            _check_truncation(model, self.truncate_dim)
            return model
        try:
            model = load_encoder(self.given, self.cache_dir, self.trust_remote_code)
        except OSError as error:
            if self.given != self.manifest["encoder"]:
                raise ValueError(
                    f"The encoder {self.given!r} that was given for the clustering is neither a path here nor a model "
                    f"that the Hub gives; the clustering was made with {self.manifest['encoder']!r}"
                ) from error
            raise ValueError(
                f"The encoder {self.manifest['encoder']!r} of the clustering is neither a path here nor a model that "
                "the Hub gives: of a folder the name alone is kept, and not where it lies. Pass it: "
                "Clustering.load(..., encoder=...), or --encoder NAME_OR_PATH on the command line"
            ) from error
        if isinstance(self.given, str):
            model.prompts = dict(self.manifest["prompts"])
            # A static model has no length and takes none: beside one that has it is another model.
            if get_max_seq_length(model) not in (None, self.manifest["max_seq_length"]):
                model.max_seq_length = self.manifest["max_seq_length"]
        found, wanted = fingerprint_model(model, self.truncate_dim), self.manifest["encoder_hash"]
        if found != wanted:
            given = replace(self, manifest=None).name
            raise ValueError(
                f"The clustering was made with {self.manifest['encoder']!r}, hash {wanted[:16]}; {given!r} has "
                f"{found[:16]}: its weights, prompts or maximal length differ, and its vectors would land in any "
                "cluster. Pass the encoder of then, or fit again: fit_clusters(...)"
            )
        return model

    @cached_property
    def fingerprint(self) -> str:
        """Hash of weights, prompts, maximal length and truncation."""
        return fingerprint_model(self.model, self.truncate_dim)

    @property
    def name(self) -> str:
        """Its id, which says nothing of where it lies on this machine; as the clustering has it that it is part of."""
        if self.manifest is not None:
            return str(self.manifest["encoder"])
        if not isinstance(self.given, str | Path):
            return str(self.given.model_card_data.base_model or type(self.given).__name__)
        given = str(self.given)
        prefix = STATIC_PREFIX if given.startswith(STATIC_PREFIX) else ""
        name = given.removeprefix(prefix)
        return prefix + (Path(name).resolve().name if Path(name).exists() else name)

    def describe(self) -> dict[str, Any]:
        """Return what a manifest needs to load this encoder again, and to know it."""
        return {
            "encoder": self.name,
            "encoder_hash": self.fingerprint,
            "prompts": self.model.prompts,
            "max_seq_length": get_max_seq_length(self.model),
            "truncate_dim": self.truncate_dim or getattr(self.model, "truncate_dim", None),
        }

    def load_beside(self, given: str | Path | SentenceTransformer | None) -> Encoder:
        """Return another model that is loaded and run as this one is; this one for None."""
        return self if given is None else replace(self, given=given, truncate_dim=None, manifest=None)

    def with_batch_size(self, batch_size: int) -> Encoder:
        """Return the same encoder, which sees so many texts at once; the model is loaded for both."""
        changed = replace(self, batch_size=batch_size)
        changed.__dict__["model"] = self.model  # where a cached property keeps its value
        return changed

    def encode(self, side: Side, texts: Sequence[str], rows: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Embed the queries or the passages of some rows.

        Args:
            side: Which of the model's prompts to use.
            texts: n texts.
            rows: Numbers of their rows, for error messages; from 0 on by default.

        Returns:
            (n, d) float32 rows of unit length.

        Raises:
            ValueError: If a vector is not finite or zero, with its row and text.
        """
        vectors = self._encode(side, texts)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        is_bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
        if is_bad.any():
            at = int(is_bad.argmax())
            kind = "zero" if norms[at] == 0 else "not finite"
            raise ValueError(
                f"The encoder's vector of row {at if rows is None else rows[at]} is {kind} ({is_bad.sum()} such rows "
                f"nearby): {side} {texts[at][:80]!r}. Remove these rows, or take an encoder that knows their words"
            )
        unit: npt.NDArray[np.float32] = vectors / norms
        return unit

    def measure(self, side: Side, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the (n,) lengths of the vectors of n texts; zero for a text in which the model finds no token."""
        lengths: npt.NDArray[np.float32] = np.linalg.norm(self._encode(side, texts), axis=1)
        return lengths

    def _encode(self, side: Side, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        return np.asarray(
            encode(
                list(texts),
                batch_size=self.batch_size or choose_batch_size(self.model),
                show_progress_bar=False,
                convert_to_numpy=True,
                truncate_dim=self.truncate_dim,
            ),
            dtype=np.float32,
        )

    def encode_many(
        self, side: Side, texts: Sequence[str], description: str, show_progress_bar: bool, rows: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        """Embed the texts of some rows like `encode`, part by part with a progress bar."""
        starts = range(0, len(texts), _ROWS_IN_A_PART)
        bar = tqdm(starts, description, unit="part", disable=not show_progress_bar or len(starts) < 2)
        parts = (slice(low, low + _ROWS_IN_A_PART) for low in bar)
        return np.concatenate([self.encode(side, texts[part], rows[part]) for part in parts])


def choose_batch_size(model: SentenceTransformer) -> int:
    """Return how many texts a kind of model is to see at once, where it is."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    if isinstance(model[0], StaticEmbedding):
        return _STATIC_BATCH_SIZE
    return _BATCH_SIZE if model.device.type == "cpu" else _GPU_BATCH_SIZE


def name_model(model: str | Path | SentenceTransformer) -> str:
    """Return the id of a model, distilled or not, which says nothing of where it lies on this machine."""
    return Encoder(model, Path()).name.removeprefix(STATIC_PREFIX)


def check_encoder(encoder: Any) -> None:
    """Check that a model embeds a text as one dense vector.

    Raises:
        TypeError: If it does something else, with what to pass.
    """
    from sentence_transformers import SentenceTransformer

    if not isinstance(encoder, SentenceTransformer):
        raise TypeError(f"The encoder is a {type(encoder).__name__}; {_NEEDED}")


def _load_dense(name: str, trust_remote_code: bool) -> SentenceTransformer:
    """Load a model by name; one of another kind would be made a dense one in silence, with vectors of no meaning."""
    from sentence_transformers import SentenceTransformer

    with naming_model(name):
        kind = read_kind(name)
        if kind in ("SparseEncoder", "CrossEncoder", "MultiVectorEncoder"):
            raise TypeError(f"The encoder {name!r} is a {kind}; {_NEEDED}")
        return SentenceTransformer(name, trust_remote_code=trust_remote_code)


def _check_truncation(model: SentenceTransformer, truncate_dim: int | None) -> None:
    dimensions = model.get_embedding_dimension()
    if truncate_dim is not None and dimensions is not None and truncate_dim > dimensions:
        raise ValueError(
            f"truncate_dim={truncate_dim} is more than the {dimensions} dimensions of the encoder; pass fewer, or none"
        )


def load_encoder(
    encoder: str | Path | SentenceTransformer, cache_dir: Path, trust_remote_code: bool = False
) -> SentenceTransformer:
    """Load the model that embeds the texts to be clustered.

    Args:
        encoder: A model, or the path or Hub id of one. With the prefix `static:` the model is distilled to static
            token embeddings first (model2vec), hundreds of times as fast on a CPU, and kept in the cache.
        cache_dir: Where distilled models are kept.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        A model in evaluation mode.

    Raises:
        ImportError: If model2vec is needed and missing.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    if not isinstance(encoder, str | os.PathLike):
        check_encoder(encoder)
        return encoder.eval()
    encoder = os.fspath(encoder)
    if not encoder.startswith(STATIC_PREFIX):
        return _load_dense(encoder, trust_remote_code).eval()
    name = encoder.removeprefix(STATIC_PREFIX)
    teacher = _load_dense(name, trust_remote_code)
    if isinstance(teacher[0], StaticEmbedding):
        return teacher.eval()  # there is nothing to distil
    target = cache_dir / f"static-{fingerprint_model(teacher)[:16]}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(target) as temporary:
            _distil(name, trust_remote_code).save(str(temporary), create_model_card=False)
    return SentenceTransformer(str(target)).eval()


def _distil(name: str, trust_remote_code: bool) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    logger.info("Distilling %s to static token embeddings", name)
    try:
        distilled = StaticEmbedding.from_distillation(name, trust_remote_code=trust_remote_code)
    except ImportError as error:
        raise ImportError(
            f"encoder='{STATIC_PREFIX}{name}' needs model2vec: pip install 'st-cluster-batches[static]'"
        ) from error
    return SentenceTransformer(modules=[distilled])


def get_max_seq_length(model: SentenceTransformer) -> int | None:
    """Return the tokens that a model reads of a text; None if all, as static models do."""
    length = model.max_seq_length
    return None if length is None or not math.isfinite(length) else int(length)
