from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from examples import TOPICS, make_pairs, make_static_model
from sentence_transformers import SentenceTransformer

from st_cluster_batches import ClusterBatchSampler, attach_clusters
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.data.pairs import KEYS
from st_cluster_batches.storage.chunks import CHUNK


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def attach(dataset: Any, cache: Path, encoder: Any = None, **options: Any) -> Any:
    defaults = {"n_clusters": 3, "cache_dir": cache, "show_progress_bar": False}
    return attach_clusters(dataset, encoder or make_static_model(), **{**defaults, **options})


def with_topics(n_rows: int = 300) -> Dataset:
    """Add the true topic as source, in the middle of the columns."""
    pairs = make_pairs(n_rows)
    topics = [next(name for name, words in TOPICS.items() if text.split()[0] in words) for text in pairs["query"]]
    return pairs.add_column("source", topics).select_columns(["query", "source", "passage"])


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, id="pairs"),
        pytest.param({"negative": [f"keel {at}" for at in range(300)]}, id="triplets"),
        pytest.param(
            {"n1": [f"keel {at}" for at in range(300)], "n2": [f"mate {at}" for at in range(300)]}, id="4-tuples"
        ),
        pytest.param({"score": [at / 300 for at in range(300)]}, id="scores"),
        pytest.param({"label": [at % 2 for at in range(300)]}, id="labels"),
    ],
)
def test_the_users_columns_pass_through_untouched(cache: Path, extra: dict[str, list[Any]]) -> None:
    pairs = make_pairs(300)
    for name, values in extra.items():
        pairs = pairs.add_column(name, values)
    labelled = attach(pairs, cache)
    keys = [] if {"label", "score"} & set(extra) else ["false_negative_keys"]
    assert labelled.column_names == [*pairs.column_names, "cluster", *keys]
    assert labelled.select_columns(pairs.column_names).to_dict() == pairs.to_dict()
    assert {name: labelled.features[name] for name in pairs.features} == dict(pairs.features)
    assert labelled.features["cluster"].dtype == "int64"


def test_clusters_of_sources_are_disjoint_and_numbered_side_by_side(cache: Path) -> None:
    labelled = attach(with_topics(), cache)
    assert labelled.column_names == ["query", "passage", "source", "cluster", "false_negative_keys"]
    by_source: dict[str, set[int]] = {}
    for row in labelled:
        by_source.setdefault(row["source"], set()).add(row["cluster"])
    assert len(set().union(*by_source.values())) == 9
    assert all(sorted(own) == list(range(min(own), min(own) + 3)) for own in by_source.values())


def test_every_row_is_in_the_cluster_of_its_nearest_centroid(cache: Path) -> None:
    labelled, clustering = cluster_dataset(
        with_topics(),
        make_static_model(),
        AttachOptions(ClusterOptions(n_clusters=4), cache_dir=cache, show_progress_bar=False),
    )
    vectors = make_static_model().encode_query(labelled["query"][:])
    for source, centroids in clustering.centroids.items():
        rows = [at for at, one in enumerate(labelled["source"]) if one == source]
        similarity = vectors[rows] @ centroids.T
        chosen = np.array(labelled["cluster"][:])[rows] - clustering.first_cluster(source)
        assert np.allclose(similarity[np.arange(len(rows)), chosen], similarity.max(axis=1), atol=2e-3)


def test_a_dict_of_datasets_is_labelled_without_a_collision(cache: Path) -> None:
    given = DatasetDict({"a": make_pairs(100, 1), "b": with_topics(120)})
    labelled = attach(given, cache)
    assert list(labelled) == ["a", "b"]
    clusters = {name: set(one["cluster"]) for name, one in labelled.items()}
    assert [len(own) for own in clusters.values()] == [3, 9] and not clusters["a"] & clusters["b"]


def test_a_source_column_of_another_name_becomes_source(cache: Path) -> None:
    sites = with_topics().rename_column("source", "site")
    assert attach(sites, cache, source_column="site")["source"][:] == sites["site"][:]
    with pytest.raises(ValueError, match="no column 'web', only"):
        attach(sites, cache, source_column="web")


def test_integer_sources_work_and_text_in_the_source_column_is_refused(cache: Path) -> None:
    numbered = make_pairs(90).add_column("source", [at % 3 for at in range(90)])
    assert len(set(attach(numbered, cache)["cluster"])) == 9
    text = make_pairs(90).rename_column("query", "source")
    with pytest.raises(ValueError, match="90 values of 'source' in 90 rows: that is no source but text"):
        attach(text, cache)


@pytest.mark.parametrize("prepare", ["select", "shuffle", "torch", "transform", "columns"])
def test_any_view_of_the_data_gets_the_labels_of_its_rows(cache: Path, prepare: str) -> None:
    plain = attach(make_pairs(300), cache)
    cluster_of = dict(zip(plain["query"], plain["cluster"], strict=True))
    view = {
        "select": lambda data: data.select(range(299, -1, -1)),
        "shuffle": lambda data: data.shuffle(seed=4),
        "torch": lambda data: data.with_format("torch"),
        "transform": lambda data: data.with_transform(dict),
        "columns": lambda data: data.with_format(None, columns=["query"]),
    }[prepare](make_pairs(300))
    labelled = attach(view, cache)
    assert labelled.format["type"] == view.format["type"]
    assert list(labelled[0]) == ["query"] if prepare == "columns" else "cluster" in labelled[0]
    bare = labelled.with_format(None)
    found = dict(zip(bare["query"], bare["cluster"], strict=True))
    # The same texts in another order train k-means in that order: compare the partition where order is kept.
    if prepare in ("torch", "transform", "columns"):
        assert found == cluster_of
    assert set(found) == set(cluster_of)
    assert bare["query"][:] == view.with_format(None)["query"][:]


def test_the_key_decides_what_is_clustered(cache: Path) -> None:
    labels = {key: tuple(attach(make_pairs(300), cache, key=key)["cluster"]) for key in KEYS}
    assert len(set(labels.values())) == len(KEYS)


def test_query_and_document_prompts_are_used(cache: Path) -> None:
    model = make_static_model()
    model.prompts = {"query": "find ", "document": "read "}
    seen = []
    tokenize = model.preprocess

    def record(texts: list[str], prompt: str | None = None, **options: Any) -> Any:
        seen.append(prompt)
        return tokenize(texts, prompt=prompt, **options)

    model.preprocess = record
    attach(make_pairs(50), cache, model, key="both")
    assert set(seen) == {"find ", "read "}


def refuse_to_encode(*_: Any, **__: Any) -> None:
    raise AssertionError("encoded again")


def test_a_second_call_encodes_nothing_and_gives_the_same(cache: Path) -> None:
    first = attach(make_pairs(300), cache)
    silent = make_static_model()
    silent.encode_query = refuse_to_encode
    # Formats and in-memory copies are the same data.
    assert attach(make_pairs(300).with_format("torch"), cache, silent).with_format(None).to_dict() == first.to_dict()
    # Another k needs no new embeddings.
    assert len(set(attach(make_pairs(300), cache, silent, n_clusters=5)["cluster"])) == 5


def change_prompt(model: SentenceTransformer) -> None:
    model.prompts = {"query": "find: "}


def change_weights(model: SentenceTransformer) -> None:
    model[0].embedding.weight.data[3] += 1


def change_dimensions(model: SentenceTransformer) -> None:
    model.truncate_dim = 8


@pytest.mark.parametrize("change", [change_prompt, change_weights, change_dimensions])
def test_another_encoder_is_no_cache_hit(cache: Path, change: Any) -> None:
    attach(make_pairs(100), cache)
    model = make_static_model()
    change(model)
    model.encode_query = refuse_to_encode
    with pytest.raises(AssertionError, match="encoded again"):
        attach(make_pairs(100), cache, model)


def test_a_clustering_from_the_cache_has_the_name_that_its_encoder_has_now(cache: Path, saved_model: Path) -> None:
    moved = saved_model.with_name("moved")
    options = AttachOptions(ClusterOptions(n_clusters=4), cache_dir=cache, show_progress_bar=False)
    first = cluster_dataset(make_pairs(300), saved_model, options)[1]
    saved_model.rename(moved)
    second = cluster_dataset(make_pairs(300), moved, options)[1]
    assert first.manifest == {**second.manifest, "encoder": "encoder"} and second.manifest["encoder"] == "moved"


def test_other_texts_are_no_cache_hit(cache: Path) -> None:
    attach(make_pairs(100), cache)
    silent = make_static_model()
    silent.encode_query = refuse_to_encode
    with pytest.raises(AssertionError, match="encoded again"):
        attach(make_pairs(100, 1), cache, silent)


def test_fewer_rows_or_another_order_are_clustered_anew_and_embedded_no_more(cache: Path, tmp_path: Path) -> None:
    attach(make_pairs(100), cache)
    silent = make_static_model()
    silent.encode_query = refuse_to_encode
    for number, rows in enumerate((range(99), [1, 0, *range(2, 100)])):
        other = make_pairs(100).select(rows)
        apart = attach(other, tmp_path / str(number))
        assert attach(other, cache, silent)["cluster"][:] == apart["cluster"][:]


def test_the_same_seed_gives_the_same_labels_and_another_seed_others(tmp_path: Path) -> None:
    labels = [
        attach(make_pairs(300), tmp_path / str(at), n_clusters=9, seed=seed) for at, seed in enumerate((5, 5, 6))
    ]
    clusters = [tuple(one["cluster"]) for one in labels]
    assert clusters[0] == clusters[1] != clusters[2]


def test_a_killed_run_goes_on_with_its_last_chunk(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHUNK > 32
    monkeypatch.setattr("st_cluster_batches.storage.chunks.CHUNK", 32)
    model = make_static_model()
    encode, calls = model.encode_query, []

    def encode_three_chunks(texts: list[str], **options: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(texts, **options)

    model.encode_query = encode_three_chunks
    with pytest.raises(KeyboardInterrupt):
        attach(make_pairs(300), cache, model)
    resumed = attach(make_pairs(300), cache, model)
    assert sum(calls) == 300 + 32, "only the chunk that was cut short is encoded twice"
    assert resumed.to_dict() == attach(make_pairs(300), tmp_path / "fresh").to_dict()
    assert not [path for path in cache.rglob("*") if "partial" in path.name or "tmp" in path.name]


@pytest.mark.parametrize(
    ("value", "kind"), [(0.0, "zero"), (float("nan"), "not finite"), (float("inf"), "not finite")]
)
def test_a_useless_vector_is_named_with_its_row(cache: Path, value: float, kind: str) -> None:
    model = make_static_model()
    encode = model.encode_query

    def spoil(texts: list[str], **options: Any) -> Any:
        vectors = encode(texts, **options)
        vectors[17] = value
        return vectors

    model.encode_query = spoil
    with pytest.raises(ValueError, match=f"row 17 is {kind}"):
        attach(make_pairs(50), cache, model)


@pytest.mark.parametrize("text", [None, "", " \t\n", "\u00a0"])
@pytest.mark.parametrize("column", ["query", "passage"])
def test_a_missing_text_is_named_with_its_row(cache: Path, text: str | None, column: str) -> None:
    rows = make_pairs(50).to_list()
    rows[31][column] = text
    model = make_static_model()
    model.encode_query = refuse_to_encode
    with pytest.raises(ValueError, match=f"Column '{column}' has no text in row 31"):
        attach(Dataset.from_list(rows), cache, model)


def test_small_sources_keep_all_their_rows(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = make_pairs(40).add_column("source", ["large"] * 37 + ["small"] * 2 + ["one"])
    labelled = attach(pairs, cache, n_clusters=5)
    assert len(labelled) == 40
    assert labelled["cluster"][37:] != labelled["cluster"][0]
    assert len(set(labelled["cluster"][37:])) == 3, "every row of a source smaller than k is a cluster"
    told = "2 of 3 sources have fewer rows than the 5 clusters asked for: every row is one: 'one' 1; 'small' 2."
    assert told in caplog.text


def test_duplicates_leave_no_gap_in_the_numbers(cache: Path) -> None:
    texts = ["soup salt"] * 40 + ["mast rope"] * 40
    labelled = attach(Dataset.from_dict({"query": texts, "passage": texts}), cache, n_clusters=10)
    first, second = sorted(set(labelled["cluster"]))
    assert second == first + 1
    assert len(set(map(tuple, labelled["false_negative_keys"]))) == 2


def test_existing_labels_are_kept_unless_told_otherwise(cache: Path) -> None:
    labelled = attach(make_pairs(60), cache)
    with pytest.raises(ValueError, match="overwrite=True"):
        attach(labelled, cache)
    again = attach(labelled, cache, n_clusters=2, overwrite=True)
    assert len(set(again["cluster"])) == 2
    assert again.column_names == labelled.column_names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 3, "cluster_size": 5}, "exclude each other"),
        ({"n_clusters": 0}, "n_clusters=0 must be at least 1"),
        ({"seed": -1}, "the clock"),
        ({"key": "title"}, "key='title' is none of 'query', 'passage', 'both', 'symmetric'"),
        ({"niter": 0}, "niter=0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_embedded(
    cache: Path, options: dict[str, Any], message: str
) -> None:
    model = make_static_model()
    model.encode_query = refuse_to_encode
    with pytest.raises(ValueError, match=message):
        attach(make_pairs(30), cache, model, **options)


def test_unsuitable_datasets_are_refused(cache: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        attach(make_pairs(5).select([]), cache)
    with pytest.raises(TypeError, match="not IterableDataset"):
        attach(make_pairs(5).to_iterable_dataset(), cache)
    with pytest.raises(ValueError, match="no column of text"):
        attach(Dataset.from_dict({"label": [1, 2]}), cache)
    with pytest.raises(ValueError, match="needs a passage beside it"):
        attach(make_pairs(5).select_columns("query"), cache, key="passage")


def test_the_cluster_size_sets_k_source_by_source(cache: Path) -> None:
    pairs = make_pairs(300).add_column("source", ["a"] * 200 + ["b"] * 100)
    labelled = attach(pairs, cache, n_clusters=None, cluster_size=50)
    assert [len(set(labelled["cluster"][low:high])) for low, high in ((0, 200), (200, 300))] == [4, 2]


def test_a_distilled_encoder_is_made_once(cache: Path, tiny_bert: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(tiny_bert))
    pooling = Pooling(transformer.get_word_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(tmp_path / "teacher"))
    encoder = f"static:{tmp_path / 'teacher'}"
    labelled, clustering = cluster_dataset(
        make_pairs(100), encoder, AttachOptions(ClusterOptions(n_clusters=3), cache_dir=cache, show_progress_bar=False)
    )
    assert len(set(labelled["cluster"])) == 3
    assert clustering.manifest["encoder"] == "static:teacher", "the name does not tell where the model lies"
    distilled = list(cache.glob("static-*"))
    assert len(distilled) == 1
    before = (distilled[0] / "modules.json").stat().st_mtime_ns
    attach(make_pairs(120), cache, encoder)
    assert (distilled[0] / "modules.json").stat().st_mtime_ns == before


def test_labels_survive_parquet_and_disk_and_steer_the_sampler(cache: Path, tmp_path: Path) -> None:
    labelled = attach(make_pairs(300), cache)
    labelled.to_parquet(str(tmp_path / "x.parquet"))
    labelled.save_to_disk(str(tmp_path / "x"))
    expected = list(ClusterBatchSampler(labelled, 16))
    assert len(expected) == 19
    for read in (Dataset.from_parquet(str(tmp_path / "x.parquet")), load_from_disk(str(tmp_path / "x"))):
        assert list(ClusterBatchSampler(read, 16)) == expected
