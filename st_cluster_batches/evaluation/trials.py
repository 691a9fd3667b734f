"""Trials: a small model trained on the batches of one candidate, with one learning rate and one seed, and scored."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import torch
from joblib.externals.loky import get_reusable_executor

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.communities import find_communities
from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids
from st_cluster_batches.clusters.options import ClusterOptions
from st_cluster_batches.evaluation.problem import Problem
from st_cluster_batches.evaluation.proxy import Guide, as_bags, embed_all, rank_documents, train_embeddings
from st_cluster_batches.evaluation.start import Proxy
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.labels import Labels

# Learning rates at first, and the least and the most that are tried where the best one is at the edge. Those of static
# models are in root mean squares of the embeddings, by about which Adam moves each number in a step at most.
_RATES: dict[Proxy, tuple[float, ...]] = {"static": (0.0125, 0.025, 0.05), "model": (2e-5, 8e-5, 3.2e-4)}
_SPAN = 8
TRIAL_VERSION = 3  # to be raised by any change that changes scores

Record = dict[str, Any]  # JSON values


@dataclass(frozen=True)
class Trial:
    """One run.

    Args:
        candidate: How batches are filled.
        rate: Learning rate; of static models in root mean squares of the embeddings.
        seed: Seed of clusters and plan.
    """

    candidate: Candidate
    rate: float
    seed: int

    def describe(self) -> Record:
        """Return it as JSON values."""
        return {**asdict(self), "candidate": self.candidate.describe()}


def list_rates(options: TuneOptions) -> tuple[float, ...]:
    """Return the learning rates that the first candidate is tried with."""
    return _RATES[options.proxy]


def list_near_rates(options: TuneOptions, rate: float) -> list[float]:
    """Return half and twice a rate, as far as it makes sense to go."""
    least, *_, most = _RATES[options.proxy]
    return [one for one in (rate / 2, rate * 2) if least / _SPAN <= one <= most * _SPAN]


def run_trials(problem: Problem, trials: Sequence[Trial], options: TuneOptions) -> Iterator[tuple[Trial, Record]]:
    """Run trials, and yield each with its record once it is done.

    Models are trained in worker processes (joblib), one core each. Real ones share a GPU if there are to be several.
    """
    n_workers = _count_workers(options)
    if n_workers == 1 or len(trials) < 2:
        for trial in trials:
            yield run_trial(problem, trial, options)
        return
    if problem.start.has_own_code:  # which workers that are left from before would not find
        get_reusable_executor().shutdown(wait=True)
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_workers, return_as="generator_unordered", pre_dispatch=n_workers)
        yield from parallel(joblib.delayed(run_trial)(problem, trial, options) for trial in trials)


def _count_workers(options: TuneOptions) -> int:
    has_gpu = options.proxy == "model" and torch.accelerator.is_available()
    return options.n_workers or (1 if has_gpu else 2)


def run_trial(problem: Problem, trial: Trial, options: TuneOptions) -> tuple[Trial, Record]:
    """Train and score a model.

    Returns:
        The trial, and its record: nDCG@10 of every query that the rate is chosen on, with their mean, and of the
        others, and what the batches were made of.
    """
    start = time.perf_counter()
    labels = label_problem(problem, trial.candidate, trial.seed)
    n_threads = torch.get_num_threads()
    if options.proxy == "static" or _count_workers(options) > 1:
        torch.set_num_threads(1)
    try:
        if options.proxy == "model":
            from st_cluster_batches.evaluation.model_trials import train_model  # static ones need no trainer

            tuned, measured, counts = train_model(problem, labels, trial.candidate, trial.rate, trial.seed, options)
        else:
            tuned, measured, counts = _train_static(problem, labels, trial, options)
    finally:
        torch.set_num_threads(n_threads)
    return trial, {
        "tuned_ndcg": float(tuned.mean()),
        "tuned": [round(one, 6) for one in tuned.tolist()],
        "ndcg": [round(one, 6) for one in measured.tolist()],
        "counts": counts,
        "seconds": round(time.perf_counter() - start, 2),
    }


def _train_static(
    problem: Problem, labels: Labels, trial: Trial, options: TuneOptions
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Record]:
    """Train static embeddings on one core, and score them on both sets of queries."""
    plan = BatchPlan(labels, options.batch_size, seed=trial.seed, rows_per_stratum=trial.candidate.rows_per_stratum)
    weights = torch.from_numpy(np.array(problem.start.weights))
    rate = trial.rate * float(weights.square().mean().sqrt())
    guide = None
    if trial.candidate.masked:
        assert problem.guide is not None, "masks are tried where there are vectors to mask by"
        guide = Guide(*problem.guide, trial.candidate.margin)
    bags = as_bags(problem.queries), as_bags(problem.passages)
    train_embeddings(weights, bags, plan, rate, n_epochs=options.n_epochs or 1, guide=guide)
    documents = embed_all(weights, as_bags(problem.documents))
    tuned, measured = (
        rank_documents(embed_all(weights, as_bags(one.queries)), documents, one)
        for one in (problem.tuned_on, problem.measured_on)
    )
    return tuned, measured, asdict(plan.plan_epoch(0).counts)


def label_problem(problem: Problem, candidate: Candidate, seed: int) -> Labels:
    """Label the training pairs of a source as `attach` would: one stratum, or clusters along their path."""
    if candidate.cluster_size is None:
        return Labels(np.zeros(len(problem), dtype=np.int64), np.zeros(1, dtype=np.int64), problem.keys)
    if candidate.method == "communities":
        assert problem.sides is not None, "communities are tried where there are vectors of both sides"
        queries, passages = (one.astype(np.float32) for one in problem.sides)
        strata = find_communities(queries, passages, candidate.cluster_size, seed=seed)
        return Labels(strata, np.zeros(int(strata.max()) + 1, dtype=np.int64), problem.keys)
    n_clusters = max(1, round(len(problem) / candidate.cluster_size))
    seen = problem.vectors if problem.sample is None else problem.sample
    centroids = fit_centroids(seen, n_clusters, seed=seed, niter=ClusterOptions.niter)  # as for `attach`
    distinct, strata = np.unique(NearestCentroid(centroids).find(problem.vectors)[0], return_inverse=True)
    return Labels(strata, np.zeros(len(distinct), dtype=np.int64), problem.keys)
