"""Trials: a small model trained on the batches of one candidate, with one learning rate and one seed, and scored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import joblib
import numpy as np
import torch

from st_cluster_batches.batches.labels import Labels
from st_cluster_batches.batches.plan import BatchPlan
from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids
from st_cluster_batches.evaluation.problem import Problem
from st_cluster_batches.evaluation.proxy import Guide, embed_all, rank_documents, train_embeddings

# Of Adam, in root mean squares of the embeddings: a step moves each number by about so much at most. Between the best
# rate and the next one lie one to three percent of nDCG@10.
RATES = (0.0125, 0.025, 0.05)
LEAST_RATE, MOST_RATE = RATES[0] / 8, RATES[-1] * 8  # how far others are tried, where the best one is at the edge
TRIAL_VERSION = 1  # to be raised by any change that changes scores

_NITER = 20  # iterations of k-means, as for `attach`

Record = dict[str, Any]  # JSON values


@dataclass(frozen=True)
class Trial:
    """One run.

    Args:
        candidate: How batches are filled.
        rate: Learning rate, in root mean squares of the embeddings.
        seed: Seed of clusters and plan.
    """

    candidate: Candidate
    rate: float
    seed: int

    def describe(self) -> Record:
        """Return it as JSON values."""
        return asdict(self)


def run_trials(
    problem: Problem, trials: Sequence[Trial], batch_size: int, n_epochs: int, n_workers: int
) -> Iterator[tuple[Trial, Record]]:
    """Run trials in worker processes (joblib), one core each, and yield each with its record once it is done."""
    if n_workers == 1 or len(trials) < 2:
        for trial in trials:
            yield run_trial(problem, trial, batch_size, n_epochs)
        return
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_workers, return_as="generator_unordered", pre_dispatch=n_workers)
        yield from parallel(joblib.delayed(run_trial)(problem, trial, batch_size, n_epochs) for trial in trials)


def run_trial(problem: Problem, trial: Trial, batch_size: int, n_epochs: int) -> tuple[Trial, Record]:
    """Train and score a model on one core.

    Returns:
        The trial, and its record: nDCG@10 of every query that candidates are compared on, their mean over the queries
        that the rate is chosen on, and what the batches were made of.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return trial, _run(problem, trial, batch_size, n_epochs)
    finally:
        torch.set_num_threads(n_threads)


def _run(problem: Problem, trial: Trial, batch_size: int, n_epochs: int) -> Record:
    start = time.perf_counter()
    plan = BatchPlan(label_problem(problem, trial.candidate, trial.seed), batch_size, seed=trial.seed)
    weights = torch.from_numpy(problem.weights.copy())
    rate = trial.rate * float(weights.square().mean().sqrt())
    guide = None
    if trial.candidate.masked:
        if problem.guide is None:
            raise ValueError(f"{trial.candidate} needs vectors of both sides to mask by: tune(..., guide=True)")
        guide = Guide(*problem.guide, trial.candidate.margin)
    train_embeddings(weights, (problem.queries, problem.passages), plan, rate, n_epochs=n_epochs, guide=guide)
    documents = embed_all(weights, problem.documents)
    tuned, measured = (
        rank_documents(embed_all(weights, one.queries), documents, one)
        for one in (problem.tuned_on, problem.measured_on)
    )
    return {
        "tuned_ndcg": float(tuned.mean()),
        "ndcg": [round(one, 6) for one in measured.tolist()],
        "counts": asdict(plan.plan_epoch(0).counts),
        "seconds": round(time.perf_counter() - start, 2),
    }


def label_problem(problem: Problem, candidate: Candidate, seed: int) -> Labels:
    """Label the training pairs of a source as `attach` would: one stratum, or clusters along their path."""
    if candidate.cluster_size is None:
        return Labels(np.zeros(len(problem), dtype=np.int64), np.zeros(1, dtype=np.int64), problem.keys)
    n_clusters = max(1, round(len(problem) / candidate.cluster_size))
    centroids = fit_centroids(problem.vectors, n_clusters, seed=seed, niter=_NITER)
    distinct, strata = np.unique(NearestCentroid(centroids).find(problem.vectors)[0], return_inverse=True)
    return Labels(strata, np.zeros(len(distinct), dtype=np.int64), problem.keys)
