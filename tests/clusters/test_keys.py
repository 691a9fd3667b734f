from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from examples import make_pairs, make_static_model

from st_cluster_batches import attach_clusters, attach_keys


def read_keys(dataset: Dataset) -> list[list[int]]:
    keys: list[list[int]] = dataset.with_format(None)["false_negative_keys"][:]
    return keys


def test_keys_are_those_that_clustering_attaches(tmp_path: Path) -> None:
    pairs = make_pairs(50).add_column("source", ["a", "b"] * 25)
    keyed = attach_keys(pairs, cache_dir=tmp_path)
    assert keyed.column_names == ["query", "passage", "source", "false_negative_keys"]
    assert read_keys(keyed) == read_keys(attach_clusters(pairs, make_static_model(), cache_dir=tmp_path))
    again = attach_keys(pairs, cache_dir=tmp_path)
    assert read_keys(again) == read_keys(keyed) and len(list(tmp_path.glob("keys-*.arrow"))) == 1


def test_clusters_of_ones_own_and_the_order_of_columns_stay(tmp_path: Path) -> None:
    pairs = make_pairs(20).add_column("cluster", [1, 2] * 10)
    keyed = attach_keys(pairs, columns=("passage", "query"), cache_dir=tmp_path)
    assert keyed.column_names == ["passage", "query", "cluster", "false_negative_keys"]
    assert keyed["cluster"] == pairs["cluster"]
    with pytest.raises(ValueError, match=r"\['false_negative_keys'\] already; pass overwrite=True"):
        attach_keys(keyed, cache_dir=tmp_path)
    assert read_keys(attach_keys(keyed, columns=("passage", "query"), overwrite=True)) == read_keys(keyed)


def test_rows_that_a_guide_knows_keep_their_row_keys(tmp_path: Path) -> None:
    guided = attach_clusters(make_pairs(50), make_static_model(), guide=True, cache_dir=tmp_path)
    again = attach_keys(guided, overwrite=True, cache_dir=tmp_path)
    assert set(again.column_names) == set(guided.column_names) and read_keys(again) == read_keys(guided)
    assert again["label"] == guided["label"]


def test_every_dataset_of_a_dict_gets_keys_and_scored_pairs_get_none(tmp_path: Path) -> None:
    parts = DatasetDict(a=make_pairs(20), b=make_pairs(30, 1).add_column("label", [1.0, 0.0] * 15))
    keyed = attach_keys(parts, cache_dir=tmp_path)
    assert {name: part.column_names for name, part in keyed.items()} == {
        "a": ["query", "passage", "false_negative_keys"],
        "b": ["query", "passage", "label"],
    }


@pytest.mark.parametrize("given", [[{"query": "a", "passage": "b"}], make_pairs(4).to_iterable_dataset()])
def test_what_is_no_dataset_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="attach_keys takes a Dataset"):
        attach_keys(given)
