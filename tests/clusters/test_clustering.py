from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict
from examples import TOPICS, make_pairs, make_static_model

from st_cluster_batches import Clustering, attach_clusters, fit_clusters
from st_cluster_batches.clusters import encoder as encoder_module
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.data.pairs import KEYS, Key


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fit(cache: Path, dataset: Any = None, **options: Any) -> Clustering:
    defaults = {"n_clusters": 3, "cache_dir": cache, "show_progress_bar": False}
    return fit_clusters(dataset or make_pairs(300), make_static_model(), **{**defaults, **options})


def test_a_clustering_is_read_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centroids = {name: rng.normal(size=(k, 4)).astype(np.float32) for name, k in (("web/é", 3), ("a", 2))}
    Clustering(centroids, {"seed": 3}).save(tmp_path / "x")
    loaded = Clustering.load(tmp_path / "x")
    assert list(loaded.centroids) == ["web/é", "a"]
    assert all(np.array_equal(loaded.centroids[name], centroids[name]) for name in centroids)
    assert loaded.manifest == {"seed": 3}
    assert [loaded.first_cluster(name) for name in centroids] == [
        Clustering(centroids).first_cluster(name) for name in centroids
    ]
    (tmp_path / "x" / "clustering.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"clustering\.json is missing"):
        Clustering.load(tmp_path / "x")


def test_a_damaged_clustering_is_refused(tmp_path: Path) -> None:
    clustering = Clustering({"all": np.eye(4, dtype=np.float32)}, {})
    clustering.save(tmp_path)
    file = tmp_path / "centroids.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold what"):
        Clustering.load(tmp_path)
    manifest = tmp_path / "clustering.json"
    manifest.write_text(manifest.read_text()[:20])
    with pytest.raises(ValueError, match=r"clustering\.json is damaged: it holds no JSON .*Restore it"):
        Clustering.load(tmp_path)


@pytest.mark.parametrize("key", KEYS)
def test_the_artefact_alone_gives_the_labels_of_the_rows_it_was_fit_on(cache: Path, tmp_path: Path, key: Key) -> None:
    labelled = attach_clusters(
        make_pairs(300), make_static_model(), n_clusters=4, key=key, cache_dir=cache, show_progress_bar=False
    )
    fit(cache, n_clusters=4, key=key).save(tmp_path / "kept")
    make_static_model().save(str(tmp_path / "encoder"))
    loaded = Clustering.load(tmp_path / "kept", encoder=str(tmp_path / "encoder"))
    again = loaded.attach(make_pairs(300), cache_dir=tmp_path / "elsewhere", show_progress_bar=False)
    assert again.to_dict() == labelled.to_dict()
    texts = (
        labelled[key][:]
        if key in ("query", "passage")
        else list(zip(labelled["query"], labelled["passage"], strict=True))
    )
    assert np.array_equal(loaded.assign(texts), labelled["cluster"])


def test_the_key_decides_the_topics_that_come_out(cache: Path) -> None:
    # Query and passage of a row are on different topics, so that each key has its own right answer.
    names = sorted(TOPICS)
    rng = np.random.default_rng(0)
    topics = rng.integers(3, size=(2, 400))
    words = [[" ".join(rng.choice(TOPICS[names[topic]], 40)) for topic in side] for side in topics]
    data = Dataset.from_dict({"query": words[0], "passage": words[1]})
    for key, k, truth in (("query", 9, topics[0]), ("passage", 9, topics[1]), ("both", 27, 3 * topics[0] + topics[1])):
        clusters = np.array(
            attach_clusters(
                data, make_static_model(64), n_clusters=k, key=key, cache_dir=cache, show_progress_bar=False
            )["cluster"]
        )
        pure = sum(np.bincount(truth[clusters == one]).max() for one in set(clusters.tolist())) / len(truth)
        assert pure > 0.95, f"clusters of {key} follow the topics of {key}"


def test_new_rows_get_the_topics_of_the_old_ones(cache: Path) -> None:
    clustering = fit(cache)
    new = clustering.attach(make_pairs(200, seed=7), cache_dir=cache, show_progress_bar=False)
    vectors = make_static_model().encode_query(new["query"][:], normalize_embeddings=True)
    nearest = (vectors @ clustering.centroids["all"].T).argmax(axis=1)
    assert np.array_equal(new["cluster"], clustering.first_cluster("all") + nearest)
    assert np.array_equal(clustering.assign(vectors), new["cluster"])


def test_sources_keep_their_numbers(cache: Path) -> None:
    given = make_pairs(300).add_column("source", ["a", "b", "c"] * 100)
    clustering = fit(cache, given)
    attached = clustering.attach(given.select(range(299, -1, -1)), cache_dir=cache, show_progress_bar=False)
    numbers = {name: set(range(first := clustering.first_cluster(name), first + 3)) for name in "abc"}
    assert {name: set(attached.filter(lambda row: row["source"] == name)["cluster"]) for name in "abc"} == numbers  # noqa: B023
    assert set(clustering.assign(given["query"][:5], source="b")) <= numbers["b"]
    assert np.array_equal(clustering.assign(given["query"][:], source=given["source"][:]), attached["cluster"][::-1])
    with pytest.raises(ValueError, match="say which"):
        clustering.assign(["soup"])
    with pytest.raises(ValueError, match="knows no source 'd', only"):
        clustering.attach(make_pairs(3).add_column("source", ["d"] * 3), cache_dir=cache)


def test_a_dict_of_datasets_is_attached(cache: Path) -> None:
    given = DatasetDict({"x": make_pairs(100, 1), "y": make_pairs(120, 2)})
    clustering = fit(cache, given)
    attached = clustering.attach(given, cache_dir=cache, show_progress_bar=False)
    numbers = {name: set(range(first := clustering.first_cluster(name), first + 3)) for name in "xy"}
    assert {name: set(one["cluster"]) for name, one in attached.items()} == numbers


@pytest.mark.parametrize("has_sources", [False, True])
def test_splits_get_the_topics_of_what_was_clustered_whole(cache: Path, has_sources: bool) -> None:
    rows = make_pairs(160)
    rows = rows.add_column("source", ["a", "b"] * 80) if has_sources else rows
    clustering = fit(cache, rows)
    options = {"cache_dir": cache, "show_progress_bar": False}
    whole = clustering.attach(rows, **options)
    splits = DatasetDict({"train": rows.select(range(120)), "test": rows.select(range(120, 160))})
    attached = clustering.attach(splits, **options)
    assert [*attached["train"]["cluster"], *attached["test"]["cluster"]] == whole["cluster"][:]
    with pytest.raises(ValueError, match="knows no source 'train/c'"):
        clustering.attach(DatasetDict({"train": make_pairs(20).add_column("source", ["c"] * 20)}), **options)


def list_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("fitted", "told"),
    [
        ({"cluster_size": 20}, r"'all' \d+ rows on average, \d+ at most \(asked: 20 on average\)"),
        (
            {"n_clusters": 5, "max_cluster_size": 25},
            r"asked: any number on average, 25 at most\)\. Cluster these .*: attach_clusters\(",
        ),
        ({"n_clusters": 5}, None),
    ],
)
def test_new_rows_that_fill_far_larger_clusters_than_asked_for_are_told_of(
    cache: Path, caplog: pytest.LogCaptureFixture, fitted: dict[str, Any], told: str | None
) -> None:
    clustering = fit(cache, make_pairs(100), **{"n_clusters": None, **fitted})
    caplog.clear()
    for rows in (make_pairs(100), make_pairs(60, seed=4)):
        clustering.attach(rows, cache_dir=cache, show_progress_bar=False)
    assert list_warnings(caplog) == []
    clustering.attach(make_pairs(1000, seed=4), cache_dir=cache, show_progress_bar=False)
    warnings = list_warnings(caplog)
    assert len(warnings) == bool(told) and (told is None or re.search(told, warnings[0]))


def test_new_sizes_of_many_sources_are_told_of_in_one_line(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make_rows(n_rows: int) -> Dataset:
        return make_pairs(n_rows).add_column("source", [f"s{at % 8}" for at in range(n_rows)])

    sizes = {**dict.fromkeys((f"s{at}" for at in range(7)), 5), "s7": None}
    clustering = fit(cache, make_rows(160), n_clusters=None, cluster_size=sizes)
    clustering.attach(make_rows(1600), cache_dir=cache, show_progress_bar=False)
    (warning,) = list_warnings(caplog)
    assert warning.count("asked: 5 on average") == 5 and "and 2 more" in warning and "'s7'" not in warning


def test_communities_that_rows_are_not_cut_into_are_told_of(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = AttachOptions(ClusterOptions(cluster_size=20, method="communities"), cache_dir=cache)
    clustering = cluster_dataset(make_pairs(200), make_static_model(), options)[1]
    for rows in (make_pairs(200), make_pairs(200).to_iterable_dataset(), make_pairs(360, seed=4)):
        caplog.clear()
        clustering.attach(rows, cache_dir=cache, show_progress_bar=False)
        told, *larger = list_warnings(caplog)
        assert "1 of 1 sources of the clustering are cut into communities (all)" in told and "nearest middle" in told
    assert "(asked: 20 on average, 20 at most)" in larger[0]


@pytest.mark.parametrize("is_stream", [False, True])
def test_rows_that_a_tuned_mask_needs_keys_for_are_told_of(
    cache: Path, caplog: pytest.LogCaptureFixture, is_stream: bool
) -> None:
    sources = {"all": Candidate(20, masked=True, margin=0.05)}
    choice = Choice(sources, 8, "encoder", "0" * 64, "query", {"all": {"columns": ["query", "passage"]}})
    rows = make_pairs(100)
    options = AttachOptions(tuned=choice, cache_dir=cache, show_progress_bar=False)
    clustering = cluster_dataset(rows, make_static_model(), options)[1]
    caplog.clear()
    given = rows.to_iterable_dataset() if is_stream else rows
    clustering.attach(given, cache_dir=cache, show_progress_bar=False)
    (warning,) = list_warnings(caplog)
    assert "masks false negatives of all, and these rows get no row keys" in warning and "guide=True) gives" in warning
    assert ("a stream cannot have them" in warning) == is_stream
    caplog.clear()
    clustering.attach(rows, guide=True, cache_dir=cache, show_progress_bar=False)
    assert list_warnings(caplog) == []


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("key", "renamed", "told"),
    [
        ("query", {"query": "b", "passage": "a"}, "fitted on the query ['query'], these rows give ['b']"),
        ("query", {"passage": "answer"}, None),
        ("both", {"passage": "answer"}, "query and passage ['query', 'passage'], these rows give ['query', 'answer']"),
    ],
)
def test_other_columns_than_those_that_were_clustered_are_told_of(
    cache: Path,
    caplog: pytest.LogCaptureFixture,
    key: Key,
    renamed: dict[str, str],
    told: str | None,
    is_stream: bool,
) -> None:
    clustering = fit(cache, key=key)
    rows = make_pairs(20).rename_columns(renamed)
    clustering.attach(rows.to_iterable_dataset() if is_stream else rows, cache_dir=cache, show_progress_bar=False)
    warnings = [one for one in list_warnings(caplog) if "fitted on" in one]
    assert len(warnings) == bool(told) and (told is None or told in warnings[0])


def test_datasets_of_a_dict_are_compared_with_their_own_columns(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = DatasetDict({"x": make_pairs(60, 1), "y": make_pairs(60, 2).rename_columns({"query": "title"})})
    clustering = fit(cache, given)
    caplog.clear()
    clustering.attach(given, cache_dir=cache, show_progress_bar=False)
    assert list_warnings(caplog) == []
    clustering.attach(DatasetDict({"x": given["y"]}), cache_dir=cache, show_progress_bar=False)
    assert [one for one in list_warnings(caplog) if "['query'], these rows of 'x' give ['title']" in one]


@pytest.mark.parametrize("change", ["weights", "prompts", "truncation"])
def test_another_encoder_is_refused(cache: Path, tmp_path: Path, change: str) -> None:
    fit(cache).save(tmp_path / "kept")
    other = make_static_model(seed=int(change == "weights"))
    if change == "prompts":
        other.prompts = {"query": "find: "}
    if change == "truncation":
        other.truncate_dim = 8
    with pytest.raises(ValueError, match="its weights, prompts or maximal length differ"):
        Clustering.load(tmp_path / "kept", encoder=other)


@pytest.mark.parametrize("is_static", [False, True])
def test_an_encoder_of_another_kind_is_refused_by_name(
    cache: Path, tmp_path: Path, tiny_bert: Path, is_static: bool
) -> None:
    make_static_model().save(str(tmp_path / "static"))
    kinds = [str(tiny_bert), f"static:{tmp_path / 'static'}"]
    fitted, other = kinds[::-1] if is_static else kinds
    fit_clusters(make_pairs(40), fitted, n_clusters=2, cache_dir=cache, show_progress_bar=False).save(
        tmp_path / "kept"
    )
    with pytest.raises(ValueError, match=r"The clustering was made with .* its weights, prompts or maximal length"):
        Clustering.load(tmp_path / "kept", encoder=other)


def test_an_encoder_that_only_its_owner_has_must_be_passed(cache: Path, tmp_path: Path) -> None:
    fit(cache).save(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"Pass it: Clustering\.load\(\.\.\., encoder=.* or --encoder NAME_OR_PATH"):
        Clustering.load(tmp_path / "kept").attach(make_pairs(5), cache_dir=cache)


def test_prompts_and_length_that_a_user_set_are_in_the_artefact(cache: Path, tmp_path: Path, tiny_bert: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.prompts = {"query": "soup ", "document": ""}
    model.max_seq_length = 5
    fit_clusters(make_pairs(60), model, n_clusters=3, truncate_dim=8, cache_dir=cache, show_progress_bar=False).save(
        tmp_path / "kept"
    )
    manifest = json.loads((tmp_path / "kept" / "clustering.json").read_text())
    assert (manifest["dim"], manifest["truncate_dim"], manifest["max_seq_length"]) == (8, 8, 5)
    assert manifest["prompts"] == {"query": "soup ", "document": ""}
    assert manifest["key"] == "query" and manifest["statistics"]["all"]["rows"] == 60
    assert "mast" not in json.dumps(manifest), "no text of the data is in the manifest"
    loaded = Clustering.load(tmp_path / "kept", encoder=str(tiny_bert))
    assert loaded.assign(["mast rope"]).shape == (1,)


def test_what_is_assigned_may_have_any_form_that_holds_texts_or_vectors(cache: Path) -> None:
    texts = make_pairs(12)["query"][:]
    clustering = fit(cache)
    vectors = make_static_model().encode_query(texts)
    expected = clustering.assign(texts).tolist()
    forms: list[Any] = [tuple(texts), make_pairs(12)["query"], pd.Series(texts), np.array(texts), vectors * 1e-3]
    for form in [*forms, np.array(texts, dtype=object), torch.from_numpy(vectors), pd.DataFrame(vectors)]:
        assert clustering.assign(form).tolist() == expected, type(form)
    integers = np.round(vectors * 1000).astype(int)
    assert clustering.assign(integers).tolist() == clustering.assign(integers.astype(np.float64)).tolist()
    for empty in ([], (), pd.Series([], dtype=object), np.empty((0, 16))):
        assert clustering.assign(empty).tolist() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("soup", r"not one: 'soup'; pass assign\(\[text\]\)"),
        ({"query": "soup"}, "not a dict; pass"),
        ({"soup"}, "not a set; pass"),
        ((one for one in ["soup"]), r"not a generator; pass .* assign\(list\(texts\)\)"),
        (pd.DataFrame({"query": ["soup"]}), r"Row 0 is a list, \"\['soup'\]\", needed is a text, the query"),
        (make_pairs(2), "Row 0 is a dict, .* needed is a text"),
        (["soup", None], "Row 1 is a NoneType"),
        ([("soup", "salt")], "Row 0 is a tuple"),
        ([[0.5] * 16], r"Row 0 is a list.*one array: assign\(np.asarray\(vectors\)\)"),
        (["soup", ""], "Row 1 has no text: ''"),
        (["soup", " \n"], "Row 1 has no text"),
        (np.ones((2, 3)), r"shape \(2, 3\) .*, needed are numbers of shape \(n, 16\)"),
        (np.ones(16), r"shape \(16,\)"),
        (np.ones((2, 16), dtype=complex), "type complex128"),
        (np.array("soup"), "not one: 'soup'"),
        (np.array(1.5), "not a float"),
        (np.eye(2, 16)[::-1] * [[0], [1]], r"row 0 is zero \(1 such rows\)"),
        (np.full((2, 16), np.nan), r"row 0 is not finite \(2 such rows\)"),
        (np.full((2, 16), np.inf), "not finite"),
    ],
)
def test_what_has_no_cluster_gets_no_number(cache: Path, given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        fit(cache).assign(given)


def test_a_key_of_both_sides_is_given_tuples_of_them(cache: Path) -> None:
    clustering, rows = fit(cache, key="both"), [("soup", "salt"), ("mast", "rope")]
    expected = clustering.assign(rows).tolist()
    assert clustering.assign(np.array(rows)).tolist() == clustering.assign(pd.DataFrame(rows)).tolist() == expected
    for given in ("ab", ["ab"], [("a", "b", "c")], [("a", None)], rows[0]):
        with pytest.raises(TypeError, match=r"a list of texts|a \(query, passage\) tuple of texts"):
            clustering.assign(given)
    with pytest.raises(ValueError, match="Row 0 has no text"):
        clustering.assign([("soup", " ")])


def test_a_hub_id_leads_to_the_artefact(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    clustering = fit(cache)
    clustering.save(tmp_path / "hub")

    def download(repo_id: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        if repo_type == "dataset":
            raise LocalEntryNotFoundError("not here")
        assert set(allow_patterns) == {"centroids.safetensors", "clustering.json", "encoder/*"}
        return str(tmp_path / "hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = Clustering.load("someone/topics")
    assert np.array_equal(loaded.centroids["all"], clustering.centroids["all"])


def test_a_distilled_encoder_is_in_the_artefact(cache: Path, tmp_path: Path) -> None:
    kept = replace(fit(cache), encoder=Encoder(make_static_model(), cache))
    kept.manifest["encoder"] = "static:someone/model"
    kept.save(tmp_path / "kept")
    kept.save(tmp_path / "kept")
    texts = make_pairs(50)["query"][:]
    for folder in ("kept", "copy"):  # saving what was loaded, onto itself or elsewhere, keeps the encoder
        Clustering.load(tmp_path / "kept").save(tmp_path / folder)
        assert np.array_equal(Clustering.load(tmp_path / folder).assign(texts), kept.assign(texts))


@pytest.mark.parametrize("name", ["someone/topics", "no/such/folder"])
def test_what_is_nowhere_is_named(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"{name} is neither a folder here nor a clustering on the Hub"):
        Clustering.load(name)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_an_encoder_is_loaded_once_for_all_that_is_attached(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int | None
) -> None:
    make_static_model().save(str(tmp_path / "encoder"))
    fit_clusters(make_pairs(40), tmp_path / "encoder", n_clusters=2).save(tmp_path / "topics")
    loaded = []
    load = encoder_module.load_encoder
    monkeypatch.setattr(encoder_module, "load_encoder", lambda *given: loaded.append(given) or load(*given))
    clustering = Clustering.load(tmp_path / "topics", encoder=str(tmp_path / "encoder"))
    for seed in (1, 2, 3):
        clustering.attach(make_pairs(20, seed), batch_size=batch_size)
    assert len(loaded) == 1
