from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, IterableDataset
from examples import make_pairs, make_static_model

from st_cluster_batches import Clustering, fit_clusters
from st_cluster_batches.data.pairs import KEYS


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fit(cache: Path, dataset: Dataset | None = None, **options: Any) -> Clustering:
    return fit_clusters(
        dataset or make_pairs(300),
        make_static_model(),
        **{"n_clusters": 3, "cache_dir": cache, "show_progress_bar": False, **options},
    )


@pytest.mark.parametrize("key", KEYS)
def test_a_stream_gets_the_clusters_that_a_dataset_gets(cache: Path, key: str) -> None:
    clustering = fit(cache, key=key)
    rows = make_pairs(100, seed=3)
    whole = clustering.attach(rows, cache_dir=cache, show_progress_bar=False)
    streamed = list(clustering.attach(rows.to_iterable_dataset()))
    assert [row["cluster"] for row in streamed] == whole["cluster"][:]
    assert [row["query"] for row in streamed] == rows["query"][:]


def test_labels_are_attached_as_rows_are_read(cache: Path) -> None:
    read = []

    def generate() -> Any:
        for at, row in enumerate(make_pairs(5000)):
            read.append(at)
            yield row

    stream = fit(cache).attach(IterableDataset.from_generator(generate))
    first = next(iter(stream))
    assert first["cluster"] >= 0 and len(first["false_negative_keys"]) == 2
    assert len(read) < 2000, "a stream is not read to its end for its first row"


def test_sources_keep_their_numbers(cache: Path) -> None:
    rows = make_pairs(300).add_column("site", ["a", "b", "c"] * 100)
    clustering = fit(cache, rows, source_column="site")
    labelled = clustering.attach(rows.to_iterable_dataset(), source_column="site")
    by_source: dict[str, set[int]] = {}
    for row in labelled:
        by_source.setdefault(row["source"], set()).add(row["cluster"])
    assert by_source == {name: set(range(first := clustering.first_cluster(name), first + 3)) for name in "abc"}


def test_keys_are_those_of_the_rows_at_rest(cache: Path) -> None:
    passages = {"passage": ["Salt  x", "salt x", "rope"], "negative": ["rope", "deck", "deck"]}
    rows = Dataset.from_dict({"query": ["soup", "mast", "king"], **passages})
    clustering = fit(cache)
    streamed = list(clustering.attach(rows.to_iterable_dataset()))
    assert streamed == clustering.attach(rows, cache_dir=cache, show_progress_bar=False).to_list()


def test_row_keys_of_a_guide_are_no_labels_to_learn_from(cache: Path) -> None:
    clustering, rows = fit(cache), make_pairs(20)
    guided = clustering.attach(rows, guide=True, cache_dir=cache, show_progress_bar=False).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"'label'\] already; pass overwrite=True"):
        clustering.attach(guided)
    streamed = list(clustering.attach(guided, overwrite=True))
    assert streamed == list(clustering.attach(rows.to_iterable_dataset()))


def test_codes_in_a_stream_are_no_texts(cache: Path) -> None:
    rows = make_pairs(40).add_column("topic", ["a", "b"] * 20)
    with pytest.raises(ValueError, match=r"'topic', which holds codes by its looks"):
        fit(cache).attach(rows.to_iterable_dataset())


def test_bad_streams_are_refused(cache: Path) -> None:
    clustering = fit(cache)
    rows = make_pairs(10)
    with pytest.raises(ValueError, match="no rows"):
        clustering.attach(IterableDataset.from_generator(lambda: iter(())))
    with pytest.raises(ValueError, match="overwrite=True"):
        clustering.attach(rows.add_column("cluster", [0] * 10).to_iterable_dataset())
    with pytest.raises(ValueError, match="no column 'site'"):
        clustering.attach(rows.to_iterable_dataset(), source_column="site")
    named = {"columns": ("query", "passage"), "source_column": "passage"}
    with pytest.raises(ValueError, match=r"'passage' is named as a text by columns= and as source_column= too"):
        clustering.attach(rows.to_iterable_dataset(), **named)
    with pytest.raises(ValueError, match="needs all rows at once"):
        clustering.attach(rows.to_iterable_dataset(), false_negative_threshold=0.9)
    blank = Dataset.from_dict({"query": ["soup", " "], "passage": ["x", "y"]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="'query' has no text"):
        list(clustering.attach(blank))


def test_a_row_of_a_stream_without_a_class_gets_no_other_one(cache: Path) -> None:
    clustering = fit(cache, make_pairs(300).add_column("source", ["a", "b"] * 150))
    rows = make_pairs(4).add_column("source", [0, 1, -1, 0])
    stream = rows.cast_column("source", ClassLabel(names=["a", "b"])).to_iterable_dataset()
    with pytest.raises(ValueError, match="'source' has no class in row 2 of a batch: -1"):
        list(clustering.attach(stream))


def test_a_text_of_a_stream_is_not_renamed_over(cache: Path) -> None:
    rows = make_pairs(300).rename_columns({"query": "source", "passage": "target"})
    clustering = fit(cache, rows.rename_columns({"source": "query"}).add_column("source", ["a"] * 300))
    stream = rows.add_column("lang", ["a"] * 300).to_iterable_dataset()
    with pytest.raises(ValueError, match="rename the text first"):
        clustering.attach(stream, source_column="lang")
