"""The model and the loss of a recipe, from sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.losses import (
    CachedGISTEmbedLoss,
    CachedMultipleNegativesRankingLoss,
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardData
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import PreTrainedModel

from st_cluster_batches.clusters.encoder import STATIC_PREFIX, load_encoder
from st_cluster_batches.clusters.saved_models import naming_model, read_kind
from st_cluster_batches.losses.guided import (
    CachedGuidedMultipleNegativesRankingLoss,
    GuidedMultipleNegativesRankingLoss,
)
from st_cluster_batches.storage.cache import default_cache_dir
from st_cluster_batches.training.arguments import LOSSES_OF, ModelArguments

_CONTRASTIVE_LOSSES = {
    "mnrl": MultipleNegativesRankingLoss,
    "cached_mnrl": CachedMultipleNegativesRankingLoss,
    "guided": GuidedMultipleNegativesRankingLoss,
    "cached_guided": CachedGuidedMultipleNegativesRankingLoss,
}
_COSINE_SCALE = 20.0  # of gist, too, which has 100 of its own: losses that are compared differ in the mask alone


def load_model(
    arguments: ModelArguments, seed: int, cache_dir: str | Path | None = None
) -> SentenceTransformer | SparseEncoder:
    """Load the model to be trained, or make a new static one.

    Args:
        arguments: Which model.
        seed: Seed of new token embeddings.
        cache_dir: Where distilled models are kept; a folder in the datasets cache by default.

    Returns:
        The model; a sparse one if its loss is SPLADE's.

    Raises:
        ValueError: If the model has no such layers, pooling or attention.
    """
    name, trust = arguments.model_name_or_path, arguments.trust_remote_code
    if arguments.static_dim is not None:
        with naming_model(name):
            tokenizer = SentenceTransformer(name.removeprefix(STATIC_PREFIX), trust_remote_code=trust).tokenizer
        # Transformers wrap a tokenizer of the `tokenizers` library, static models hold a bare one.
        model = make_static_model(getattr(tokenizer, "backend_tokenizer", tokenizer), arguments.static_dim, seed)
    elif arguments.loss == "splade":
        with naming_model(name):
            model = SparseEncoder(name, trust_remote_code=trust)
        if not any(isinstance(module, SpladePooling) for module in model):
            raise ValueError(f"loss='splade' needs a masked language model, such as BERT; {name} is none: {model}")
    else:
        model = load_encoder(name, Path(cache_dir or default_cache_dir()), trust).train()
    if arguments.pooling is not None:
        _set_pooling(model, arguments.pooling)
    if arguments.num_hidden_layers is not None:
        truncate_layers(model, arguments.num_hidden_layers)
    if arguments.max_seq_length is not None:
        try:
            model.max_seq_length = arguments.max_seq_length
        except AttributeError as error:
            raise ValueError(
                f"max_seq_length={arguments.max_seq_length} does not fit the model, which reads texts of any length; "
                f"leave it out: {model}"
            ) from error
    attention = arguments.attn_implementation
    if attention is not None and not set_attention(model, attention):
        raise ValueError(
            f"attn_implementation={attention!r} does not fit the model, which has no transformer: {model}"
        )
    return model


class QuietCardData(SentenceTransformerModelCardData):  # type: ignore[misc]  # the host library has no types
    """A card whose examples are no training rows."""

    def set_widget_examples(self, dataset: Any) -> None:
        """Choose none: a trainer does so, with a bar of its own, whatever `generate_widget_examples` says."""


def make_static_model(tokenizer: Any, dimensions: int, seed: int) -> SentenceTransformer:
    """Make a model of random static token embeddings.

    Args:
        tokenizer: A tokenizer of the `tokenizers` library.
        dimensions: Length of a vector.
        seed: Seed of the weights.

    Returns:
        A model that averages token vectors.
    """
    weights = torch.randn(tokenizer.get_vocab_size(), dimensions, generator=torch.Generator().manual_seed(seed))
    return build_static_model(tokenizer, (weights * dimensions**-0.5).numpy())


def build_static_model(tokenizer: Any, weights: npt.NDArray[np.float32]) -> SentenceTransformer:
    """Make a model of static token embeddings.

    Args:
        tokenizer: A tokenizer of the `tokenizers` library.
        weights: (tokens, d) embeddings; they are copied.

    Returns:
        A model that averages token vectors.
    """
    embedding = StaticEmbedding(tokenizer, embedding_weights=np.array(weights))
    return SentenceTransformer(modules=[embedding], model_card_data=QuietCardData())


def build_loss(
    model: SentenceTransformer | SparseEncoder, arguments: ModelArguments, dataset: Dataset | DatasetDict | None = None
) -> torch.nn.Module:
    """Build the loss that a recipe names.

    Args:
        model: The model to be trained.
        arguments: Name and settings of the loss.
        dataset: The training pairs with the row keys that a guided loss finds their vectors by.

    Returns:
        The loss, of sentence-transformers or a subclass of one.
    """
    gather = {"gather_across_devices": arguments.gather_across_devices}
    scale = arguments.loss_scale
    if scale is None:
        scale = 1.0 if arguments.loss == "splade" else _COSINE_SCALE  # splade compares by dot products
    # A recipe calls options as the losses do.
    options: dict[str, Any] = {
        name: getattr(arguments, name) for name, losses in LOSSES_OF.items() if arguments.loss in losses
    }
    loss: torch.nn.Module
    if arguments.loss in _CONTRASTIVE_LOSSES:
        options["directions"] = tuple(arguments.directions)
        if arguments.is_guided:
            options["guide"] = dataset
            del options["guide_model"]  # whose vectors the dataset has
        loss = _CONTRASTIVE_LOSSES[arguments.loss](model, scale=scale, **options, **gather)
    elif arguments.loss == "splade":
        loss = SpladeLoss(model, SparseMultipleNegativesRankingLoss(model, scale=scale, **gather), **options)
    else:
        guide = load_encoder(str(options.pop("guide_model")), default_cache_dir(), arguments.trust_remote_code)
        gist = GISTEmbedLoss if arguments.loss == "gist" else CachedGISTEmbedLoss
        # GIST subtracts its margin from the positive's similarity, or that part of it: ours is added, or a factor.
        is_absolute = arguments.margin_strategy == "absolute"
        options["margin"] = -arguments.margin if is_absolute else 1 - arguments.margin
        loss = gist(model, guide, temperature=1 / scale, **options, **gather)
    return loss


def _set_pooling(model: SentenceTransformer | SparseEncoder, mode: str) -> None:
    for at, module in enumerate(model):
        if isinstance(module, Pooling):
            model[at] = Pooling(module.embedding_dimension, pooling_mode=mode)
            return
    raise ValueError(f"pooling={mode!r} does not fit the model, which has no pooling: {model}")


def truncate_layers(model: SentenceTransformer | SparseEncoder, n_layers: int) -> None:
    """Keep the first layers of a transformer, wherever its family keeps them.

    Args:
        model: The model; changed in place.
        n_layers: How many.

    Raises:
        ValueError: If it has no stack of as many layers as it says, or more than one, or fewer layers than wanted.
    """
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    stacks = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == depth]
    if config is None or len(stacks) != 1 or not 0 < n_layers <= len(stacks[0]):
        raise ValueError(
            f"num_hidden_layers={n_layers} does not fit the model, whose depth is {depth}, in {len(stacks)} stacks of "
            "layers; leave it out to take the whole model"
        )
    del stacks[0][n_layers:]
    config.num_hidden_layers = n_layers


def set_attention(model: SentenceTransformer | SparseEncoder, implementation: str) -> bool:
    """Choose how a transformer computes attention.

    On CPUs the backward pass of the fused kernels takes half of a short step; `eager` does without them.

    Args:
        model: The model; changed in place.
        implementation: As transformers name it: `eager`, `sdpa`, `flash_attention_2`.

    Returns:
        Whether the model has a transformer.

    Raises:
        ValueError: If the transformer has no such implementation.
        ImportError: If it is of a package that is not installed.
    """
    transformers = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part in transformers:
        part.set_attn_implementation(implementation)
    return bool(transformers)


def load_saved(folder: Path) -> SentenceTransformer | SparseEncoder:
    """Load a model that has been saved, of whichever kind, without asking the Hub for anything.

    Args:
        folder: Folder of the model.

    Returns:
        The model, on the CPU.
    """
    model = SparseEncoder if read_kind(str(folder), is_local=True) == "SparseEncoder" else SentenceTransformer
    return model(str(folder), device="cpu", local_files_only=True)
