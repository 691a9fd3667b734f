"""The embedded default: does it help, on text that everyone has, in minutes and without a network?"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback

from st_cluster_batches.attach import attach_clusters
from st_cluster_batches.cache import write_atomically
from st_cluster_batches.callback import find_samplers
from st_cluster_batches.docstrings import collect_docstrings, split_docstrings
from st_cluster_batches.evaluation import evaluate
from st_cluster_batches.models import make_static_model
from st_cluster_batches.recipe import Strategy, TrainingArguments
from st_cluster_batches.training import build_trainer

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

STRATEGIES: tuple[Strategy, ...] = ("random", "source", "cluster")

_VOCABULARY = 16_000
_ENCODER_DIMENSIONS = 128
_MODEL_DIMENSIONS = 256
_CLUSTER_SIZE = 300


def run_demo(output: Path, *, n_seeds: int, max_pairs: int | None) -> dict[str, Any]:
    """Train a small model on docstrings with each batch strategy, and compare them on held-out docstrings.

    All runs of a seed start from the same weights and take the same number of steps; only who shares a batch differs.

    Args:
        output: Folder for the collections, the scores and the model.
        n_seeds: Runs of each strategy.
        max_pairs: Training pairs at most.

    Returns:
        nDCG@10 by strategy and collection, seed by seed.
    """
    runs = [(seed, name) for seed in range(n_seeds) for name in STRATEGIES]
    logger.info("Reading docstrings, clustering them, then %d training runs: minutes on two cores", len(runs))
    pairs, collections = split_docstrings(collect_docstrings(), max_pairs)
    for name, collection in collections.items():
        logger.info("Held out as %s: %d queries, %d documents", name, len(collection.queries), len(collection.corpus))
    tokenizer = train_tokenizer([*pairs["query"], *pairs["passage"]])
    labelled = _label(pairs, tokenizer, output / "cache")
    folders = [output / "collections" / name for name in collections]
    for folder, collection in zip(folders, collections.values(), strict=True):
        collection.write(folder)
    scores: dict[str, dict[str, list[float]]] = {name: {task: [] for task in collections} for name in STRATEGIES}
    for seed, name in (bar := tqdm(runs, "Training and evaluating", unit="run")):
        bar.set_description(f"Training and evaluating, {name} batches, seed {seed}")
        # A copy, since the sampler hides the label columns of the dataset it is given.
        model = _train(labelled.with_format(None), tokenizer, name, seed, output)
        results = evaluate(model, folders, output / "scores" / f"{name}-{seed}", show_progress_bar=False)
        for task, result in results.items():
            scores[name][task].append(result.ndcg_at_10)
        if (seed, name) == (0, "cluster"):
            model.save(str(output / "model"))
    write_atomically(output / "results.json", json.dumps(scores, indent=2) + "\n")
    return {
        "pairs": len(pairs),
        "sources": len(set(pairs["source"])),
        "seeds": n_seeds,
        "ndcg_at_10": scores,
        "model": str(output / "model"),
    }


def _label(pairs: Dataset, tokenizer: Tokenizer, cache_dir: Path) -> Dataset:
    """Attach clusters, and say how many."""
    encoder = fit_encoder(tokenizer, [f"{row['query']} {row['passage']}" for row in pairs])
    labelled = attach_clusters(
        pairs, encoder, cluster_size=_CLUSTER_SIZE, cache_dir=cache_dir, show_progress_bar=False
    )
    n_sources, n_clusters = (len(set(labelled[column])) for column in ("source", "cluster"))
    logger.info("Training on %d pairs of %d packages, in %d clusters", len(pairs), n_sources, n_clusters)
    if n_clusters == n_sources:
        logger.warning("So few pairs make one cluster of each package: cluster and source batches are the same")
    return labelled


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a lower-casing tokenizer on texts by byte-pair encoding.

    Not WordPiece: the `tokenizers` library numbers its `##` pieces in hash order, so no two trainings would agree.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def fit_encoder(tokenizer: Tokenizer, texts: list[str], dimensions: int = _ENCODER_DIMENSIONS) -> SentenceTransformer:
    """Fit static token embeddings by latent semantic analysis: TF-IDF, then a truncated SVD (scikit-learn).

    It stands in for the pretrained encoder that one would cluster with, so that the demo needs no weights.

    Args:
        tokenizer: Splits texts into the tokens to be embedded.
        texts: The documents of the analysis.
        dimensions: Length of a vector.

    Returns:
        A model whose embedding of a text is the mean of its tokens' vectors.
    """
    from scipy.sparse import csr_array
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ends = np.cumsum([0, *map(len, tokens)])
    counts = csr_array(
        (np.ones(ends[-1]), np.concatenate(tokens), ends), shape=(len(texts), tokenizer.get_vocab_size())
    )
    counts.sum_duplicates()
    tfidf = TfidfTransformer(sublinear_tf=True)
    svd = TruncatedSVD(dimensions, random_state=0).fit(tfidf.fit_transform(counts))
    weights = (tfidf.idf_[:, None] * svd.components_.T).astype(np.float32)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def _train(labelled: Dataset, tokenizer: Tokenizer, name: Strategy, seed: int, output: Path) -> SentenceTransformer:
    model = make_static_model(tokenizer, _MODEL_DIMENSIONS, seed)
    arguments = TrainingArguments(
        str(output / "trainer"),
        batch_sampler=name,
        seed=seed,
        per_device_train_batch_size=128,
        num_train_epochs=3,
        learning_rate=0.02,
        warmup_steps=0.1,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = build_trainer(model, labelled, arguments)
    trainer.remove_callback(PrinterCallback)
    if seed == 0:
        for sampler in find_samplers(trainer.get_train_dataloader())[1]:
            logger.info("%s batches, one epoch: %s", name, sampler.counts)
    trainer.train()
    return model
