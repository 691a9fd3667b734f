"""The model that trials start from: static token embeddings, or a real model as a trainer takes it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from st_cluster_batches.clusters.encoder import STATIC_PREFIX, load_encoder
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.evaluation.proxy import Bags

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Proxy = Literal["static", "model"]
Texts = Bags | list[str]

_MAX_TOKENS = 256  # of a text, as small transformers read
# Documents to look queries up in: a transformer embeds them in a minute, static models all of them at once.
_DOCUMENTS: dict[Proxy, int] = {"static": 10_000, "model": 2_000}


@dataclass(frozen=True)
class Start:
    """The model that trials start from.

    Args:
        proxy: `static` for token embeddings, `model` for the model itself.
        fingerprint: Hash of its weights and settings.
        weights: (tokens, d) embeddings of a static one.
        tokenizer: That of a static one, of the `tokenizers` library.
        model: The model itself; trials train copies of it.
        origin: Hash of the model that was given, whole; of a static one that of its embeddings.
    """

    proxy: Proxy
    fingerprint: str
    weights: npt.NDArray[np.float32] | None = None
    tokenizer: Any = None
    model: SentenceTransformer | None = None
    origin: str = ""

    @classmethod
    def load(cls, model: str | Path | SentenceTransformer, cache_dir: Path, trust_remote_code: bool = False) -> Start:
        """Load a model, and distil it to token embeddings (model2vec) unless it is made of these."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        if isinstance(model, SentenceTransformer) and not isinstance(model[0], StaticEmbedding):
            with tempfile.TemporaryDirectory() as folder:
                model.save(folder, create_model_card=False)
                return cls.load(folder, cache_dir, trust_remote_code)
        if not isinstance(model, SentenceTransformer):
            name = STATIC_PREFIX + str(model).removeprefix(STATIC_PREFIX)
            model = load_encoder(name, cache_dir, trust_remote_code)
        weights = model[0].embedding.weight.detach().float().cpu().numpy()
        fingerprint = fingerprint_model(model)
        return cls("static", fingerprint, weights, model[0].tokenizer, origin=fingerprint)

    @classmethod
    def load_model(
        cls,
        model: str | Path | SentenceTransformer,
        cache_dir: Path,
        n_layers: int | None = None,
        max_seq_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> Start:
        """Load a model to be trained itself, perhaps its first layers alone."""
        from st_cluster_batches.training.models import truncate_layers  # workers with static models need none of it

        loaded = copy.deepcopy(load_encoder(model, cache_dir, trust_remote_code))
        origin = fingerprint_model(loaded)
        loaded.cpu()  # workers take it along; a trainer moves its copy
        if n_layers is not None:
            truncate_layers(loaded, n_layers)
        if max_seq_length is not None:
            loaded.max_seq_length = max_seq_length
        return cls("model", fingerprint_model(loaded), model=loaded, origin=origin)

    @property
    def has_own_code(self) -> bool:
        """Whether the model is of modules that came with it, which transformers keeps in a package of its own."""
        modules = [] if self.model is None else self.model.modules()
        return any(type(one).__module__.startswith("transformers_modules.") for one in modules)

    @property
    def n_documents(self) -> int:
        """How many documents held-out queries are looked up in."""
        return _DOCUMENTS[self.proxy]

    def tokenize(self, texts: Iterable[str]) -> Texts:
        """Tokenise texts for a static model; another one takes them as they are."""
        if self.tokenizer is None:
            return list(texts)
        return Bags.tokenize(self.tokenizer, list(texts), _MAX_TOKENS)

    def without_tokenizer(self) -> Start:
        """Return it for texts that are tokenised."""
        return replace(self, tokenizer=None)
