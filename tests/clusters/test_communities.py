from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from examples import TOPICS, make_pairs, make_static_model
from hypothesis import given, settings
from hypothesis import strategies as st

from st_cluster_batches import ClusterBatchSampler, Clustering, attach_clusters, fit_clusters
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.communities import _link, choose_window, cut_group, find_communities
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.clusters.source_communities import cut_sources
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.data.pairs import Key, PairOptions, Pairs
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


def make_vectors(n_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((4, 8))
    rows = topics[rng.integers(0, 4, n_rows)]
    sides = [rows + 0.3 * rng.standard_normal((n_rows, 8)) for _ in range(2)]
    queries, passages = ((one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32) for one in sides)
    return queries, passages


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 120), st.integers(1, 40), st.integers(0, 5))
def test_every_row_is_in_one_community_of_about_the_size(n_rows: int, size: int, seed: int) -> None:
    queries, passages = make_vectors(n_rows, seed)
    labels = find_communities(queries, passages, size, seed=seed)
    assert labels.shape == (n_rows,)
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    again = find_communities(queries, passages, size, seed=seed)
    assert np.array_equal(labels, again)


def test_an_edge_is_a_rank_within_the_window_on_both_sides() -> None:
    queries, passages = make_vectors(60)
    graph = _link(queries, passages, skip=3, neighbours=10).toarray()
    similarity = queries @ passages.T
    np.fill_diagonal(similarity, -2)
    ranks = np.argsort(np.argsort(-similarity, axis=1), axis=1)
    is_near = (ranks >= 3) & (ranks < 13)
    assert np.array_equal(graph > 0, is_near & is_near.T)


def test_communities_are_of_one_topic_and_follow_a_path() -> None:
    queries, passages = make_vectors(400)
    labels = find_communities(queries, passages, 20)
    middles = np.stack([queries[labels == one].mean(axis=0) for one in range(labels.max() + 1)])
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    beside = (middles[1:] * middles[:-1]).sum(axis=1).mean()
    assert beside > (middles @ middles.T).mean() + 0.2
    coherence = np.mean([np.linalg.norm(queries[labels == one].mean(axis=0)) for one in range(len(middles))])
    assert coherence > 0.85


@pytest.mark.parametrize("n_rows", [60, 120, 300])
def test_negatives_in_communities_of_a_small_source_are_harder_than_random_rows(n_rows: int) -> None:
    queries, passages = make_vectors(n_rows)
    similarity = queries @ passages.T
    labels = find_communities(queries, passages, 15)
    is_negative = ~np.eye(n_rows, dtype=bool)
    within = similarity[is_negative & (labels[:, None] == labels)].mean()
    assert within > similarity[is_negative].mean() + 0.2


def test_large_sources_have_the_window_of_b3() -> None:
    assert choose_window(2000) == choose_window(1_000_000) == (30, 100)


def list_parts(labels: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == one).tolist()) for one in np.unique(labels)}


def test_every_seed_cuts_other_communities_and_always_the_same() -> None:
    queries, passages = make_vectors(200)
    found = [list_parts(find_communities(queries, passages, 20, seed=seed)) for seed in (0, 1, 2, 12345, 1)]
    assert found[1] == found[4]
    assert all(one != other for at, one in enumerate(found[:4]) for other in found[:at])


def topics_of(rows: Dataset) -> list[str]:
    topic_of = {word: topic for topic, words in TOPICS.items() for word in words}
    return [topic_of[query.split()[0]] for query in rows["query"]]


def test_attach_labels_rows_with_their_communities(tmp_path: Path) -> None:
    rows, encoder = make_pairs(300), make_static_model()
    labelled = attach_clusters(rows, encoder, cluster_size=20, method="communities")
    clusters = labelled["cluster"][:]
    sizes = np.unique(clusters, return_counts=True)[1]
    assert len(sizes) == 15 and sizes.min() >= 15 and sizes.max() <= 25
    sampler = ClusterBatchSampler(labelled, 16)
    assert sorted(row for batch in sampler for row in batch) == list(range(300))
    # What is cached is found again, and the nearest middle of a fitted clustering is another labelling.
    assert attach_clusters(rows, encoder, cluster_size=20, method="communities")["cluster"][:] == clusters
    clustering = fit_clusters(rows, encoder, cluster_size=20)
    assert clustering.attach(rows)["cluster"][:] != clusters


def test_large_sources_are_cut_group_by_group_as_they_would_be_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.communities._COARSE_ROWS", 60)
    rows, encoder = make_pairs(300), make_static_model()
    labelled = attach_clusters(rows, encoder, cluster_size=20, method="communities", cache_dir=tmp_path)
    vectors = PairVectors(
        Pairs.prepare("", rows, PairOptions(), False), Encoder(encoder, tmp_path), SharedCache(tmp_path)
    )
    taken: list[int] = []
    take = PairVectors.take

    def watch(self: PairVectors, key: Key, rows: np.ndarray) -> np.ndarray:
        taken.append(len(rows))
        return take(self, key, rows)

    everything = np.arange(300)
    by_hand = find_communities(vectors.take("query", everything), vectors.take("passage", everything), 20)
    assert list_parts(np.array(labelled["cluster"])) == list_parts(by_hand)
    monkeypatch.setattr(PairVectors, "take", watch)
    cut_sources(vectors, ClusterOptions(cluster_size=20, method="communities", seed=1), SharedCache(tmp_path))
    assert len(taken) > 10 and max(taken[2:]) < 150  # but for the sample that groups are found by, and their search


def test_an_interrupted_cut_goes_on_with_the_next_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.clusters.communities._COARSE_ROWS", 60)
    calls: list[int] = []

    def cut(queries: np.ndarray, *others: int) -> np.ndarray:
        calls.append(len(queries))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cut_group(queries, *others)

    monkeypatch.setattr("st_cluster_batches.clusters.source_communities.cut_group", cut)
    options = {"cluster_size": 20, "method": "communities", "cache_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        attach_clusters(make_pairs(300), make_static_model(), **options)
    labelled = attach_clusters(make_pairs(300), make_static_model(), **options)
    assert calls[3:4] == calls[2:3], "the group that was at work is cut again"
    assert sum(calls) - calls[2] == len(labelled), "no other is"


def test_sources_may_have_methods_of_their_own() -> None:
    rows = concatenate_datasets(
        [
            make_pairs(120, seed=seed).add_column("source", [name] * 120)
            for seed, name in enumerate(("papers", "films"))
        ]
    )
    labelled = attach_clusters(
        rows,
        make_static_model(),
        cluster_size={"papers": 20, "films": None},
        method={"papers": "communities", "films": "kmeans"},
    )
    clusters = np.array(labelled["cluster"][:])
    assert len(np.unique(clusters[:120])) == 6 and len(np.unique(clusters[120:])) == 1
    with pytest.raises(ValueError, match="method says nothing of the source 'films'"):
        attach_clusters(rows, make_static_model(), cluster_size=20, method={"papers": "communities"}, overwrite=True)


def test_options_that_do_not_fit_are_refused() -> None:
    encoder = make_static_model()
    with pytest.raises(ValueError, match="method='graph' is none of"):
        attach_clusters(make_pairs(30), encoder, method="graph")
    with pytest.raises(ValueError, match="max_cluster_size=9 splits clusters of k-means"):
        attach_clusters(make_pairs(30), encoder, cluster_size=5, max_cluster_size=9, method="communities")
    for option in ({"key": "passage"}, {"key": "both"}, {"niter": 3}):
        with pytest.raises(ValueError, match=rf"^{next(iter(option))}=.*, and there are none: communities .*leave"):
            attach_clusters(make_pairs(30), encoder, cluster_size=5, method="communities", **option)
    with pytest.raises(ValueError, match="method='communities' needs a passage"):
        attach_clusters(make_pairs(30).select_columns(["query"]), encoder, cluster_size=5, method="communities")


@pytest.mark.parametrize("other", [Candidate(20, method="communities"), Candidate()])
def test_a_choice_without_k_means_is_followed_whatever_key_it_was_tuned_by(other: Candidate) -> None:
    rows = make_pairs(240).add_column("source", ["papers", "films"] * 120)
    sources = {"papers": Candidate(20, method="communities"), "films": other}
    evidence = {name: {"columns": ["query", "passage"]} for name in sources}
    choices = [Choice(sources, 8, "encoder", "0" * 64, key, evidence) for key in ("query", "both")]
    by_query, by_both = (attach_clusters(rows, make_static_model(), tuned=one)["cluster"][:] for one in choices)
    assert by_query == by_both
    options = AttachOptions(ClusterOptions(key="both"), tuned=choices[1])
    assert options.clusters.key == "query"
    assert replace(options, guide=True).clusters == options.clusters
    with pytest.raises(ValueError, match=r"niter=3 decides clusters of k-means"):
        attach_clusters(rows, make_static_model(), tuned=choices[1], niter=3)
    with_kmeans = replace(choices[1], sources={**sources, "films": Candidate(20)})
    assert AttachOptions(ClusterOptions(key="both", niter=3), tuned=with_kmeans).clusters.key == "both"


def test_what_k_means_alone_reads_is_refused_where_all_is_one_stratum() -> None:
    with pytest.raises(ValueError, match=r"niter=3 .* every source is one stratum, of random batches; leave"):
        ClusterOptions(cluster_size={"papers": None}, niter=3)


def test_commands_and_recipes_take_the_method(workspace: Path) -> None:
    out = workspace / "out"
    words = ["--encoder", str(workspace / "encoder"), "--cluster_size", "10", "--method", "communities"]
    assert main(["attach", str(workspace / "pairs.parquet"), str(out), *words]) == 0
    manifest = json.loads((out / "clustering.json").read_text())
    assert manifest["method"] == "communities"
    assert Clustering.load(out).manifest["statistics"]["all"]["clusters"] == 12
    words = ["--method", "communities", "--cluster_size", "10", "--n_clusters", "null"]
    text = (workspace / "recipe.yaml").read_text().replace("n_clusters: 3\n", "cluster_size: 10\n")
    (workspace / "recipe.yaml").write_text(text)
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", ["--method", "communities"]))
    assert len(set(run.trainer.train_dataset.with_format(None)["cluster"])) == 12
