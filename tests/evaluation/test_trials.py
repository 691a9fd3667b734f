from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from planted import make_planted_model, make_planted_pairs

from st_cluster_batches import attach_clusters
from st_cluster_batches.clusters.choice import METHODS, Candidate
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.data.pairs import KEYS, Key
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.trials import label_problem
from st_cluster_batches.storage.shared_cache import SharedCache


@pytest.mark.parametrize("key", KEYS)
def test_clusters_that_are_tried_are_those_that_are_attached(key: Key, tmp_path: Path) -> None:
    model = make_planted_model(True)
    with SharedCache.open(tmp_path, False) as cache:
        start = Start("model", "", model=model)  # keeps the texts
        encoder = Encoder(model, cache.folder)
        problem = prepare_problem("all", make_planted_pairs(400), encoder, key, None, start, cache)
    assert problem is not None
    tried = label_problem(problem, Candidate(24), 0).strata.tolist()
    pairs = make_planted_pairs(400).filter(lambda row: row["query"] in set(problem.queries))
    assert pairs["query"][:] == problem.queries
    labelled = attach_clusters(pairs, model, cluster_size=24, key=key, seed=0, cache_dir=tmp_path)
    attached = labelled["cluster"][:]
    n_clusters = len(set(attached))
    assert n_clusters > 5 and len({*zip(tried, attached, strict=True)}) == len(set(tried)) == n_clusters


def test_another_seed_holds_other_queries_out_of_the_same_rows(tmp_path: Path) -> None:
    model = make_planted_model(True)
    with SharedCache.open(tmp_path, False) as cache:
        start = Start("model", "", model=model)
        found = [
            prepare_problem(
                "all", make_planted_pairs(400), Encoder(model, cache.folder), "query", None, start, cache, seed
            )
            for seed in (0, 0, 1)
        ]
    first, again, other = (set(one.measured_on.queries) for one in found if one is not None)
    assert first == again != other


@pytest.fixture
def problem_of_communities(tmp_path: Path) -> Problem:
    model = make_planted_model(True)
    with SharedCache.open(tmp_path, False) as cache:
        start, encoder = Start("model", "", model=model), Encoder(model, cache.folder)
        pairs = make_planted_pairs(400)
        problem = prepare_problem("all", pairs, encoder, "query", None, start, cache, has_communities=True)
    assert problem is not None
    return problem


def test_each_seed_tries_communities_of_its_own(problem_of_communities: Problem) -> None:
    tried = [
        label_problem(problem_of_communities, Candidate(32, method="communities"), seed).strata for seed in range(3)
    ]
    together = [one[:, None] == one for one in tried]
    assert all((one != other).any() for at, one in enumerate(together) for other in together[:at])


def test_runs_are_known_by_the_vectors_that_their_batches_come_from(problem_of_communities: Problem) -> None:
    problem = problem_of_communities
    assert problem.sides is not None
    others = [
        replace(problem, sides=tuple(-side for side in problem.sides)),
        replace(problem, vectors=-problem.vectors),
        replace(problem, guide=problem.sides),
    ]
    changed = [[one.digest(method) != problem.digest(method) for one in others] for method in METHODS]
    assert METHODS == ("kmeans", "communities") and changed == [[False, True, True], [True, False, True]]
