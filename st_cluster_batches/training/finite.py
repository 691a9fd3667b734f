"""Whether a model is made of numbers: a training that diverged leaves NaN, which ranks documents by their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from st_cluster_batches.storage.numbers import DivergedError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder


def check_weights(model: SentenceTransformer | SparseEncoder) -> None:
    """Check that every weight of a model is a finite number.

    Raises:
        DivergedError: If one is not, with its name.
    """
    # Buffers may hold -inf on purpose, as masks do; of eight bits torch cannot say it.
    weights = [(name, weight) for name, weight in model.named_parameters() if weight.element_size() > 1]
    bad = [name for name, weight in weights if not torch.isfinite(weight).all()]
    if bad:
        raise DivergedError(
            f"The model has {len(bad)} weights with NaN or infinite values, such as {bad[0]}: a training of it "
            "diverged, and its vectors mean nothing. Train again from the start with a smaller learning_rate, or with "
            "bf16 instead of fp16"
        )


@contextmanager
def checking_vectors(model: SentenceTransformer | SparseEncoder) -> Iterator[None]:
    """Check every vector that a model makes.

    Raises:
        DivergedError: If one is not finite.
    """

    def check(_module: Any, _given: Any, features: dict[str, Tensor]) -> None:
        vectors = features["sentence_embedding"]
        if n_bad := int((~torch.isfinite(vectors)).any(dim=-1).sum()):
            raise DivergedError(
                f"{n_bad} of {len(vectors)} vectors that the model made of a batch of texts ({vectors.dtype}) are NaN "
                "or infinite, so that ranks by them mean nothing: load the model in float32, or train it again with a "
                "smaller learning_rate"
            )

    # Of the last module: `encode` calls none of the hooks of the whole.
    handle = model[-1].register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()
