"""A comparison of batch strategies on the docstrings of installed packages: in minutes, without a network."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import PrinterCallback

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.hardness import measure_loader
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.data.docstrings import collect_docstrings, split_docstrings
from st_cluster_batches.evaluation.comparison import RUNS
from st_cluster_batches.evaluation.report import TABLE_FILE
from st_cluster_batches.evaluation.runs import Record, measure_run, report_runs, run_variants
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.folder import CLUSTERING_FOLDER, EVALUATION_FOLDER, MODEL_FOLDER
from st_cluster_batches.training.models import make_static_model
from st_cluster_batches.training.run import build_trainer
from st_cluster_batches.training.trainer_arguments import Strategy, TrainingArguments

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

STRATEGIES: tuple[Strategy, ...] = ("random", "source", "cluster")

_VOCABULARY = 16_000
_ENCODER_DIMENSIONS = 128
_MODEL_DIMENSIONS = 256
_CLUSTER_SIZE = 300


def run_demo(output: Path, *, n_seeds: int, max_pairs: int | None) -> dict[str, Any]:
    """Train a small model on docstrings with each batch strategy, and compare them on held-out docstrings.

    All runs of a seed start from the same weights and take as many epochs; only the batch strategy differs.

    Args:
        output: Folder for the collections, the comparison, and the cluster model of the first seed, with all that
            `build` needs beside it.
        n_seeds: Runs of each strategy.
        max_pairs: Training pairs at most.

    Returns:
        What `results.json` holds, the number of `sources`, and where `model` and `report` lie.
    """
    n_runs = n_seeds * len(STRATEGIES)
    logger.info("Reading docstrings, clustering them, then %d training runs: minutes on two cores", n_runs)
    pairs, collections = split_docstrings(collect_docstrings(), max_pairs)
    for name, collection in collections.items():
        logger.info("Held out as %s: %d queries, %d documents", name, len(collection.queries), len(collection.corpus))
    tokenizer = train_tokenizer([*pairs["query"], *pairs["passage"]])
    encoder = fit_encoder(tokenizer, [f"{row['query']} {row['passage']}" for row in pairs])
    cache = SharedCache(output / "cache", show_progress_bar=False)
    start = time.perf_counter()
    labelled = _label(pairs, encoder, output)
    attach_seconds = time.perf_counter() - start
    tasks = [output / "collections" / name for name in collections]
    for folder, collection in zip(tasks, collections.values(), strict=True):
        collection.write(folder)

    def run(name: str, seed: int) -> Record:
        is_kept = (seed, name) == (0, "cluster")
        folder = output if is_kept else output / RUNS / f"{name}-{seed}"
        # A copy, since the sampler hides the label columns of the dataset it is given.
        trainer = _build_trainer(labelled.with_format(None), tokenizer, cast(Strategy, name), seed, folder)
        return measure_run(
            trainer,
            tasks,
            folder / EVALUATION_FOLDER,
            partial(measure_loader, encoder=Encoder(encoder, cache.folder), cache=cache),
            attach_seconds=attach_seconds if name == "cluster" else 0.0,
            save_to=output / MODEL_FOLDER if is_kept else None,
        )

    records = run_variants(STRATEGIES, n_seeds, run)
    results = report_runs(records, {"pairs": len(pairs), "steps": records[-1]["steps"]}, output)
    places = {"model": str(output / MODEL_FOLDER), "report": str(output / TABLE_FILE)}
    return {**results, "sources": len(set(pairs["source"])), **places}


def describe_demo(results: dict[str, Any]) -> str:
    """Return the results of `run_demo` as a table, with a few sentences."""

    def describe(values: list[float]) -> str:
        return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")

    def compare(difference: dict[str, float] | None, scale: float) -> str:
        if difference is None:
            return ""
        mean, low, high = (f"{difference[name] / scale:+.1%}" for name in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"

    variants, tasks = results["results"], list(results["queries"])
    lines = [
        f"{results['pairs']:,} pairs of {results['sources']} packages, {results['seeds']} seeds; nDCG@10: mean ± "
        "deviation, difference to random with its 95 % interval",
        f"{'batches':<10}" + "".join(f"{task:>18}" for task in [*tasks, "mean"]) + f"{'to random':>26}",
    ]
    for name, one in variants.items():
        columns = [*(one["tasks"][task]["by_seed"] for task in tasks), one["mean_by_seed"]]
        cells = "".join(f"{describe(values):>18}" for values in columns)
        lines.append(f"{name:<10}{cells}{compare(one.get('difference'), variants['random']['mean']):>26}".rstrip())
    pairs = zip(variants["cluster"]["mean_by_seed"], variants["random"]["mean_by_seed"], strict=True)
    wins = sum(ours > theirs for ours, theirs in pairs)
    lines.append(f"Cluster batches beat random ones in {wins} of {results['seeds']} seeds.")
    lines.append(f"All tables: {results['report']}")
    lines.append(f"The cluster model of the first seed: SentenceTransformer({results['model']!r})")
    return "\n".join(lines)


def _label(pairs: Dataset, encoder: SentenceTransformer, output: Path) -> Dataset:
    """Attach clusters, keep the clustering, and say how many there are."""
    options = AttachOptions(
        ClusterOptions(cluster_size=_CLUSTER_SIZE), cache_dir=output / "cache", show_progress_bar=False
    )
    labelled, clustering = cluster_dataset(pairs, encoder, options)
    clustering.save(output / CLUSTERING_FOLDER)
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


def _build_trainer(
    labelled: Dataset, tokenizer: Tokenizer, name: Strategy, seed: int, folder: Path
) -> SentenceTransformerTrainer:
    arguments = TrainingArguments(
        str(folder),
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
    trainer = build_trainer(make_static_model(tokenizer, _MODEL_DIMENSIONS, seed), labelled, arguments)
    trainer.remove_callback(PrinterCallback)
    if seed == 0:
        for sampler in find_samplers(trainer.get_train_dataloader())[1]:
            logger.info("%s batches, one epoch: %s", name, sampler.counts)
    return trainer
