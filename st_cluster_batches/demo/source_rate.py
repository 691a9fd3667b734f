"""The learning rate of single-source batches, which `tune` does not try: chosen as it chooses those of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.holdout import hold_out
from st_cluster_batches.evaluation.problem import judge_collection, list_documents
from st_cluster_batches.evaluation.proxy import as_bags, embed_all, rank_documents, train_embeddings
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.trials import list_near_rates, list_rates
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.labels import read_labels

if TYPE_CHECKING:
    from datasets import Dataset

_QUERIES = 500
_PACKAGE = "row's source"  # by another name: queries are held out of all sources together


def choose_rate(pairs: Dataset, start: Start, batch_size: int) -> float:
    """Choose the rate with which single-source batches do best on held-out training queries.

    Args:
        pairs: Columns query, passage and source, and the keys of false negatives.
        start: The static model that training starts from.
        batch_size: Rows of a batch.

    Returns:
        The rate, in root mean squares of the embeddings.
    """
    columns = ["query", "passage"]
    named = pairs.with_format(None).rename_column(SOURCE, _PACKAGE)
    left, collections = hold_out(named, _QUERIES, start.n_documents, columns=columns, warns=False)
    (held_out,) = collections.values()
    documents = list_documents(held_out)
    judged = judge_collection(held_out, documents, start)
    found = as_bags(start.tokenize(documents.values()))
    bags = as_bags(start.tokenize(left["query"])), as_bags(start.tokenize(left["passage"]))
    plan = BatchPlan(read_labels(left, (_PACKAGE,)), batch_size, seed=0)
    options = TuneOptions(batch_size)
    scores: dict[float, float] = {}
    wanted = list(list_rates(options))
    while wanted:
        for rate in wanted:
            weights = torch.tensor(start.weights)
            train_embeddings(weights, bags, plan, rate * float(weights.square().mean().sqrt()))
            asked = embed_all(weights, as_bags(judged.queries))
            scores[rate] = float(rank_documents(asked, embed_all(weights, found), judged).mean())
        best = max(scores, key=lambda rate: scores[rate])
        wanted = [rate for rate in list_near_rates(options, best) if rate not in scores]
    return best
