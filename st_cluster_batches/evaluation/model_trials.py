"""Trials with the model that is to be trained, or one like it, by the stock trainer for a few hundred steps."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.labels import Labels
from st_cluster_batches.clusters.false_negatives import list_keys
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS
from st_cluster_batches.evaluation.problem import Problem
from st_cluster_batches.evaluation.proxy import Judged, rank_documents
from st_cluster_batches.evaluation.start import Texts
from st_cluster_batches.training.run import build_trainer
from st_cluster_batches.training.trainer_arguments import TrainingArguments

Scores = npt.NDArray[np.float64]


def train_model(
    problem: Problem, labels: Labels, batch_size: int, n_steps: int, rate: float, seed: int
) -> tuple[Scores, Scores, dict[str, Any]]:
    """Train a copy of the model on cluster batches, and score it.

    Args:
        problem: A source, with texts.
        labels: The stratum of each pair.
        batch_size: Rows of a batch.
        n_steps: Steps of the optimiser.
        rate: Learning rate, at its highest.
        seed: Seed of the trainer.

    Returns:
        nDCG@10 of the queries that rates are chosen on, of those that candidates are compared on, and what the
        batches of an epoch are made of.
    """
    texts = _as_texts(problem.queries), _as_texts(problem.passages)
    columns = dict(zip(("query", "passage"), texts, strict=True))
    pairs = Dataset.from_dict({**columns, CLUSTER: labels.strata, FALSE_NEGATIVE_KEYS: list_keys(texts)})
    model = copy.deepcopy(problem.start.model)
    assert model is not None, "texts are for a model"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            batch_sampler="cluster",
            per_device_train_batch_size=batch_size,
            max_steps=n_steps,
            learning_rate=rate,
            warmup_steps=0.1,
            seed=seed,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = build_trainer(model.train(), pairs, arguments, MultipleNegativesRankingLoss(model))
        trainer.train()
        counts = asdict(find_samplers(trainer.get_train_dataloader())[1][0].counts)
    model.eval()
    documents = _embed(model.encode_document, problem.documents)
    tuned, measured = (_score(model, documents, one) for one in (problem.tuned_on, problem.measured_on))
    return tuned, measured, counts


def _score(model: Any, documents: torch.Tensor, judged: Judged) -> Scores:
    return rank_documents(_embed(model.encode_query, judged.queries), documents, judged)


def _as_texts(texts: Texts) -> list[str]:
    """Return texts that have not been tokenised."""
    if isinstance(texts, list):
        return texts
    raise TypeError("A trainer takes texts as they are, not tokenised for a static model")


def _embed(encode: Any, texts: Texts) -> torch.Tensor:
    vectors = encode(_as_texts(texts), convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False)
    embedded: torch.Tensor = vectors.float().cpu()
    return embedded
