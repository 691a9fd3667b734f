from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from examples import TOPICS, label_pairs, make_pairs, make_static_model

from st_cluster_batches import ClusterBatchSampler, fit_clusters
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.inspection.findings import Inspection
from st_cluster_batches.inspection.measuring import inspect
from st_cluster_batches.inspection.topics import describe_clusters, find_words
from st_cluster_batches.storage.cache import default_cache_dir


def look(dataset: Any, **options: Any) -> Inspection:
    defaults = {"batch_size": 16, "sample_rows": 10_000, "show_progress_bar": False}
    return inspect(dataset, make_static_model(), **{**defaults, **options})


def relabel(dataset: Dataset, **columns: Any) -> Dataset:
    for name, values in columns.items():
        dataset = dataset.remove_columns(name).add_column(name, list(values))
    return dataset


def test_sizes_and_plan_are_those_of_all_rows(labelled: Dataset) -> None:
    found = look(labelled, sample_rows=64)
    sizes = np.bincount(labelled["cluster"][:])
    (source,) = found.sources
    assert (source.rows, source.clusters) == (300, 3)
    assert (source.smallest, source.median, source.largest) == (sizes.min(), np.median(sizes), sizes.max())
    shares = sizes / 300
    assert source.effective_clusters == pytest.approx(np.prod(shares**-shares))
    plan = found.plans["cluster"]
    assert (plan.pure + plan.pooled) * 16 + plan.last == 300 and plan.pure >= 15
    assert [topic.rows for topic in found.clusters] == sizes.tolist()


def test_hardness_equals_brute_force(labelled: Dataset) -> None:
    found = look(labelled)
    model = make_static_model()
    queries, passages = (model.encode(labelled[name][:], normalize_embeddings=True) for name in ("query", "passage"))
    for name, batches in found.sample.batches.items():
        negatives, hardest, positives, nearer, near = [], [], [], [], []
        for batch in batches:
            for row in batch:
                own = float(queries[row] @ passages[row])
                others = [float(queries[row] @ passages[other]) for other in batch if other != row]
                negatives.append(np.mean(others))
                hardest.append(max(others))
                positives.append(own)
                nearer.append(np.mean([one > own for one in others]))
                near.append(np.mean([one > 0.95 * own for one in others]))
        hardness = found.hardness[name]
        expected = [np.mean(values) for values in (negatives, hardest, positives, nearer, near)]
        measured = [hardness.negative, hardness.hardest, hardness.positive]
        measured += [hardness.false_negative_rate, hardness.near_positive_rate]
        assert measured == pytest.approx(expected, abs=1e-5)
        assert hardness.batches == len(batches)
    assert found.hardness["cluster"].negative > found.hardness["random"].negative + 0.1


def test_coherence_and_examples_equal_brute_force(labelled: Dataset) -> None:
    vectors = make_static_model().encode(labelled["query"][:], normalize_embeddings=True)
    clusters = np.array(labelled["cluster"][:])
    means = np.stack([vectors[clusters == one].mean(axis=0) for one in range(3)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    for topic in look(labelled).clusters:
        rows = np.flatnonzero(clusters == topic.cluster)
        own = vectors[rows] @ means[topic.cluster]
        other = (vectors[rows] @ np.delete(means, topic.cluster, axis=0).T).max(axis=1)
        assert topic.coherence == pytest.approx(own.mean(), abs=1e-5)
        assert topic.typical == rows[np.argsort(-own, kind="stable")[:3]].tolist()
        assert topic.borderline == rows[np.argsort(own - other, kind="stable")[:3]].tolist()


def test_topic_words_are_those_of_the_topic(labelled: Dataset) -> None:
    for topic, words in zip(look(labelled).clusters, TOPICS.values(), strict=True):
        assert len(topic.words) == 8 and set(topic.words) <= set(words)


def test_words_weigh_by_class_based_tfidf() -> None:
    words = find_words(["apple apple pear", "apple", "plum plum", "12 34"], np.array([5, 5, 7, 9]))
    assert words[5][0] == "apple" and words[7] == ["plum"] and words[9] == ["12", "34"]
    assert find_words(["- -", "?"], np.array([0, 1])) == {0: [], 1: []}


def test_a_planted_duplicate_is_found_and_named(labelled: Dataset) -> None:
    passages = labelled["passage"][:]
    # The same words in another order: other text, same meaning to a bag of words.
    passages[17] = " ".join(reversed(passages[4].split()[:4])) + " p17"
    passages[4] = " ".join(passages[4].split()[:4]) + " p4"
    found = look(relabel(labelled, passage=passages, cluster=[0] * 300), batch_size=300)
    pairs = {frozenset((one.row, one.other)) for one in found.near_duplicates}
    assert frozenset((4, 17)) in pairs and found.near_duplicate_rate > 0
    (line,) = [line for line in found.advice if "false_negative_threshold=0.95" in line and "nearly the same" in line]
    assert str(found.near_duplicates[0].row) in line


def test_equal_passages_are_no_near_duplicates_that_a_threshold_would_part(labelled: Dataset) -> None:
    found = look(relabel(labelled, passage=["the same", "The  Same"] * 150))
    assert not found.near_duplicates and found.near_duplicate_rate == 0
    assert not any("false_negative_threshold=0.95" in line for line in found.advice)


def test_a_giant_is_never_to_be_cut_into_clusters_of_less_than_a_batch(labelled: Dataset) -> None:
    small = relabel(labelled.select(range(24)), cluster=[0] * 22 + [1, 2])
    for batch_size, is_named in ((4, True), (22, False)):
        advice = [line for line in look(small, batch_size=batch_size).advice if "max_cluster_size" in line]
        assert [line.split("max_cluster_size=")[1] for line in advice] == ["4."] * is_named


def test_shared_texts_are_counted_and_shown(labelled: Dataset) -> None:
    keys = labelled["false_negative_keys"][:]
    keys[10:15] = [[1010]] * 5
    keys[20:22] = [[1020]] * 2
    found = look(relabel(labelled, false_negative_keys=keys))
    shared = found.shared
    assert (shared.keys, shared.rows, shared.largest, shared.text) == (2, 7, 5, labelled["query"][10])
    assert any("7 rows share a query or a positive" in line and shared.text in line for line in found.advice)


def test_rows_that_share_no_more_than_an_explicit_negative_are_told_apart(labelled: Dataset) -> None:
    """Rows 0 to 49 have the positive of row 99 as a negative; rows 60 and 61 share their own."""
    passages = labelled["passage"][:]
    passages[61] = passages[60]
    negatives = [passages[99] if row < 50 else f"n{row}" for row in range(300)]
    crossed = {99: [99], 60: [60], 61: [60], **{row: [-99] for row in range(50)}}
    columns = {"passage": passages, "false_negative_keys": [crossed.get(row, []) for row in range(300)]}
    rows = relabel(labelled.add_column("negative", negatives), **columns)
    shared = look(rows, batch_size=4).shared
    assert (shared.keys, shared.rows, shared.largest, shared.text) == (1, 2, 2, passages[60])
    told = f"50 rows have another row's positive among their explicit negatives (most often {passages[99]!r}, the"
    assert shared.crossings is not None
    assert str(shared.crossings) == f"{told} positive of 1, a negative of 50)" and shared.crossings.is_main
    apart, together = (look(rows, batch_size=size).advice for size in (4, 300))
    assert any("2 rows share a query or a positive" in line and told in line for line in apart)
    assert any(f"meet a false negative, since {told}" in line for line in together)


def test_rows_that_cannot_but_meet_are_counted_and_their_text_is_named(labelled: Dataset) -> None:
    passages = ["Yes" if row < 200 else text for row, text in enumerate(labelled["passage"])]
    found = look(relabel(labelled, passage=passages, false_negative_keys=[[1]] * 200 + [[]] * 100))
    assert found.plans["cluster"].repeats >= 200 - len(range(0, 300, 16))
    assert any("meet a false negative" in line and "200 rows share 'Yes'" in line for line in found.advice)


def test_a_planted_giant_cluster_is_found_and_named(labelled: Dataset) -> None:
    clusters = [7 if row < 240 else row % 3 for row in range(300)]
    advice = look(relabel(labelled, cluster=clusters)).advice
    (line,) = [line for line in advice if "max_cluster_size" in line]
    assert line.startswith("Cluster 7 (") and "holds 80% of the rows of 'all'" in line


def test_a_planted_mixed_topic_is_found_and_named() -> None:
    pairs = make_pairs(600)
    data = label_pairs(pairs)
    topics = np.array(data["cluster"][:])
    # Five pure clusters, and one of a bit of everything.
    clusters = np.where(np.arange(600) % 4 == 0, 9, topics * 2 + np.arange(600) % 2)
    advice = look(relabel(data, cluster=clusters.tolist()), batch_size=16).advice
    (line,) = [line for line in advice if "mixes topics" in line]
    assert line.startswith("Cluster 9 (") and "n_clusters=" in line


def test_small_clusters_and_useless_ones_are_named(labelled: Dataset) -> None:
    small = look(relabel(labelled, cluster=range(300))).advice
    assert any(
        "Only 0% of the global batches are of one cluster" in line and "cluster_size=128" in line for line in small
    )
    assert not any("rows_per_stratum" in line for line in small if "Only 0%" in line)
    fine = look(relabel(labelled, cluster=[row // 10 for row in range(300)]), batch_size=16).advice
    assert any("Better fill a batch with 8 rows of each of several (rows_per_stratum=8)" in line for line in fine)
    chunks = look(relabel(labelled, cluster=[row // 10 for row in range(300)]), batch_size=16, rows_per_stratum=8)
    assert not any("fill a batch with" in line for line in chunks.advice) and chunks.rows_per_stratum == 8
    assert not any("Only" in line for line in chunks.advice), "eight of ten rows are in chunks of their cluster"
    none = look(relabel(labelled, cluster=range(300)), batch_size=16, rows_per_stratum=8).advice
    (line,) = [line for line in none if "Only 0% of the chunks of 8 rows are of one cluster" in line]
    assert "cluster_size=32, or lower rows_per_stratum" in line
    odd = look(relabel(labelled, cluster=[row // 10 for row in range(300)]), batch_size=18).advice
    assert any("(rows_per_stratum=9)" in line for line in odd)
    useless = look(relabel(labelled, cluster=[row % 3 for row in range(300)])).advice
    assert any("hardly nearer than those of random batches" in line for line in useless)
    dropped = look(labelled, batch_size=64, world_size=4).advice
    assert any("44 rows (14.7%) are in no batch" in line for line in dropped)


@pytest.mark.parametrize("batch_size", [300, 500])
def test_of_a_batch_that_holds_all_rows_its_size_is_to_be_changed_and_not_the_clusters(
    labelled: Dataset, batch_size: int
) -> None:
    advice = look(labelled, batch_size=batch_size).advice
    assert "One batch holds all 300 rows, so that clusters decide nothing. Lower batch_size." in advice
    assert not any("these clusters would change little" in line for line in advice)
    assert not any("One batch" in line for line in look(labelled, batch_size=200).advice)


def test_sound_clusters_have_the_stability_of_their_topics(labelled: Dataset) -> None:
    found = look(labelled)
    assert found.stability is not None and 0.3 < found.stability <= 1
    assert look(labelled.select(range(30))).stability is None, "too few rows to say"


def test_sources_are_compared_with_clusters(labelled: Dataset) -> None:
    clusters = labelled["cluster"][:]
    by_topic = relabel(labelled, source=[sorted(TOPICS)[one] for one in clusters])
    parts = {name: by_topic.filter(lambda row, name=name: row["source"] == name) for name in sorted(TOPICS)}
    in_dict = DatasetDict({name: part.remove_columns("source") for name, part in parts.items()})
    for data, names in (
        (by_topic, sorted(TOPICS)),
        (in_dict, sorted(TOPICS)),
        (DatasetDict(parts), [f"{one}/{one}" for one in sorted(TOPICS)]),  # as `attach` and `tune` call them
    ):
        found = look(data)
        assert set(found.hardness) == {"cluster", "source", "random"} and set(found.plans) == {"cluster", "source"}
        assert [one.name for one in found.sources] == names
        assert found.hardness["source"].negative > found.hardness["random"].negative + 0.1


def test_each_dataset_is_planned_by_itself_as_in_training(labelled: Dataset) -> None:
    parts = {
        "large": labelled.select(range(200)),
        "small": labelled.select(range(200, 280)),
        "tiny": labelled.select(range(280, 300)),
    }
    found = look(DatasetDict(parts), world_size=2).plans["cluster"]
    samplers = [ClusterBatchSampler(part, 16, world_size=2) for part in parts.values()]
    assert [one.fills_no_batch for one in samplers] == [False, False, True]
    counts = [one.counts for one in samplers[:2]]
    assert found.dropped == sum(one.dropped for one in counts) + 20 == 200 % 32 + 80 % 32 + 20
    assert (found.pure, found.pooled, found.mixed) == (
        sum(one.pure for one in counts),
        sum(one.pooled for one in counts),
        0,
    )


def test_pairs_with_labels_are_told_of(labelled: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    look(labelled.add_column("label", [0, 1] * 150))
    assert "The dataset has the column 'label' (0 in 150 rows, 1 in 150 rows): every pair is measured" in caplog.text


def test_every_source_and_its_largest_cluster_are_described_however_many_clusters_there_are() -> None:
    # One cluster of b, and one of c that holds most of its rows: 500 evenly spaced ones of 1,401 leave both out.
    sizes = {"a": [1] * 700, "b": [1], "c": [1, 900, *[1] * 698]}
    sources = [name for name, own in sizes.items() for size in own for _ in range(size)]
    clusters = [at for at, size in enumerate(size for own in sizes.values() for size in own) for _ in range(size)]
    data = relabel(label_pairs(make_pairs(len(sources))), cluster=clusters, source=sources)
    found = look(data, sample_rows=64)
    assert [one.name for one in found.sources] == ["a", "b", "c"]
    assert all(np.isfinite(one.coherence) for one in found.sources)
    assert 500 <= len(found.clusters) <= 503
    assert ("b", 700) in {(one.source, one.cluster) for one in found.clusters}
    (line,) = [line for line in found.advice if "max_cluster_size" in line]
    assert line.startswith("Cluster 702 (") and f"holds {900 / 1599:.0%} of the rows of 'c'" in line


def test_only_a_sample_is_embedded(labelled: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_cluster_batches.inspection.sample._TOPIC_ROWS", 18)
    found = look(labelled, sample_rows=32)
    assert found.sampled_rows <= 2 * 32 + 18
    assert [one.batches for one in found.hardness.values()] == [2, 2]


def test_columns_in_another_order_than_those_that_were_clustered_are_told_of(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clustering = fit_clusters(pairs, make_static_model(), n_clusters=3, cache_dir=tmp_path)
    labelled = clustering.attach(pairs, cache_dir=tmp_path)
    for columns, is_told in ((("query", "passage"), False), (("passage", "query"), True)):
        caplog.clear()
        inspect(labelled, clustering=clustering, columns=columns, batch_size=16, show_progress_bar=False)
        assert ("name query and passage, inspect(..., columns=(...)) or --columns" in caplog.text) == is_told


def test_no_line_of_advice_undoes_another() -> None:
    data = label_pairs(make_pairs(600))
    topics = np.array(data["cluster"][:])
    clusters = np.where(np.arange(600) % 4 == 0, 500, topics * 100 + np.arange(600) // 8)
    advice = look(relabel(data, cluster=clusters.tolist()), batch_size=16, rows_per_stratum=8).advice
    assert any("cluster again with cluster_size=32, or lower rows_per_stratum" in line for line in advice)
    (line,) = [line for line in advice if "mixes topics" in line]
    assert line.endswith("More clusters would part them, and make worse what is said above: leave that.")


def test_a_clustering_brings_its_encoder_and_key(pairs: Dataset, tmp_path: Path) -> None:
    clustering = fit_clusters(pairs, make_static_model(), n_clusters=3, key="both", cache_dir=tmp_path)
    labelled = clustering.attach(pairs, cache_dir=tmp_path)
    found = inspect(labelled, clustering=clustering, batch_size=16, show_progress_bar=False)
    assert found.key == "both"
    with pytest.raises(ValueError, match="key='passage', but the clusters were made by key='both'"):
        inspect(labelled, clustering=clustering, key="passage")
    with pytest.raises(ValueError, match="The clustering was made with"):
        inspect(labelled, make_static_model(seed=5), clustering=clustering)


def test_what_cannot_be_inspected_is_refused(labelled: Dataset, pairs: Dataset) -> None:
    with pytest.raises(ValueError, match="Similarity needs a model"):
        inspect(labelled)
    with pytest.raises(ValueError, match=r"attach_clusters\(dataset, encoder\)"):
        look(pairs)
    with pytest.raises(ValueError, match="in-batch negatives need passages too"):
        look(labelled.remove_columns("passage"))
    with pytest.raises(ValueError, match="sample_rows=1 must be at least 2"):
        look(labelled, sample_rows=1)


@pytest.mark.parametrize(("n_rows", "batch_size"), [(300, 1), (1, 16)])
def test_batches_of_one_row_are_refused_before_anything_is_embedded(
    labelled: Dataset, monkeypatch: pytest.MonkeyPatch, n_rows: int, batch_size: int
) -> None:
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("embedded"))
    with pytest.raises(
        ValueError, match=rf"batch_size={batch_size} with world_size=1, of {n_rows} rows.*--batch_size 32"
    ):
        look(labelled.select(range(n_rows)), batch_size=batch_size)


def test_distilled_models_and_vectors_are_looked_for_where_attach_keeps_them(
    pairs: Dataset, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs.to_parquet(str(tmp_path / "pairs.parquet"))
    encoder, cache = f"static:{tiny_bert}", ["--cache_dir", str(tmp_path / "cache")]
    monkeypatch.setattr("st_cluster_batches.clusters.encoder._distil", lambda *_: make_static_model())
    words = [
        str(tmp_path / "pairs.parquet"),
        str(tmp_path / "out"),
        "--encoder",
        encoder,
        "--n_clusters",
        "3",
        "--guide",
    ]
    assert main(["attach", *words, *cache]) == 0
    monkeypatch.setattr("st_cluster_batches.clusters.encoder._distil", lambda *_: pytest.fail("distilled again"))
    monkeypatch.setattr(Encoder, "encode", lambda *_: pytest.fail("embedded again"))
    assert main(["inspect", str(tmp_path / "out"), "--encoder", encoder, *cache]) == 0
    labelled = load_from_disk(str(tmp_path / "out"))
    assert inspect(labelled, encoder, cache_dir=tmp_path / "cache").encoder == "static:tiny-bert"
    assert not default_cache_dir().exists()


def test_the_dataset_is_left_as_it_is(labelled: Dataset) -> None:
    before = labelled.format
    look(labelled)
    assert labelled.format == before


def test_typical_rows_of_one_row_clusters_are_that_row() -> None:
    vectors = np.eye(3, dtype=np.float32)
    topics = describe_clusters(np.array([4, 8, 9]), vectors, np.array([0, 1, 1]), {0: ("a", 3, 1), 1: ("a", 5, 2)})
    assert topics[0].typical == topics[0].borderline == [4]
    assert topics[0].coherence == 1 and [topic.cluster for topic in topics] == [3, 5]


def test_inspect_prints_figures_and_advice(
    labelled: Dataset, tmp_path: Path, saved_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled.save_to_disk(str(tmp_path / "data"))
    words = ["inspect", str(tmp_path / "data"), "--batch_size", "16"]
    assert main(words) == 2
    assert "has no clustering beside it" in capsys.readouterr().err
    assert main([*words, "--encoder", str(saved_model), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == 300 and printed["advice"] and "sample" not in printed
    assert main([*words, "--encoder", str(saved_model), "--output", str(tmp_path / "report" / "page.html")]) == 0
    out = capsys.readouterr().out
    assert "cluster batches: 18 global batches of 16 rows" in out and "page.html" in out
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"page.html", "page_cluster_sizes.png", "page_batch_hardness.png"}


def test_batches_of_several_clusters_are_drawn_as_they_will_be(labelled: Dataset) -> None:
    def count_clusters(**options: Any) -> float:
        sample = look(labelled, **options).sample
        clusters = np.asarray(labelled["cluster"][:])
        return float(np.median([len(set(clusters[batch].tolist())) for batch in sample.batches["cluster"]]))

    assert count_clusters(rows_per_stratum=4) > count_clusters() == 1


@pytest.mark.parametrize(("batch_size", "is_followed"), [(16, True), (32, False)])
def test_what_trials_have_chosen_is_not_advised_against(tmp_path: Path, batch_size: int, is_followed: bool) -> None:
    pairs, options = make_pairs(200), {"cache_dir": tmp_path, "show_progress_bar": False}
    clustering = fit_clusters(pairs, make_static_model(), n_clusters=1, **options)
    choice = Choice({"all": Candidate()}, 16, "encoder", "0" * 64)
    tuned = replace(clustering, manifest={**clustering.manifest, "tuned": choice.describe()})
    labelled = tuned.attach(pairs, **options)
    advice = " ".join(inspect(labelled, clustering=tuned, batch_size=batch_size, **options).advice)
    assert ("Trials on these pairs have chosen for batches of 16 rows: random for 'all'" in advice) == is_followed
    assert ("The labels were tuned for batches of 16 rows, a global batch has 32" in advice) != is_followed
    assert ("st-cluster-batches tune" in advice) != is_followed
