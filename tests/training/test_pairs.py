"""What a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import concatenate_datasets
from examples import make_pairs, make_static_model

from st_cluster_batches import attach_clusters
from st_cluster_batches.training.pairs import load_pairs
from st_cluster_batches.training.recipe import parse_values


def read(tmp_path: Path, *data: Path, **keys: Any) -> Any:
    given = {"model_name_or_path": "none", "train_data": list(map(str, data)), "output_dir": str(tmp_path / "out")}
    return load_pairs(parse_values({**given, "use_cpu": True, **keys}), tmp_path / "held_out")[0]


def load(tmp_path: Path, data: Path) -> list[str]:
    names: list[str] = read(tmp_path, data).column_names
    return names


@pytest.mark.parametrize("label", ["label", "score"])
def test_labels_that_no_loss_of_a_recipe_reads_are_refused(tmp_path: Path, label: str) -> None:
    path = tmp_path / "pairs.parquet"
    make_pairs(20).add_column(label, [0, 1] * 10).to_parquet(path)
    with pytest.raises(ValueError, match=rf"'{label}' \(0 in 10 rows, 1 in 10 rows\).*positive_label: 1,"):
        load(tmp_path, path)


def test_rows_with_row_keys_that_were_joined_with_others_are_no_labelled_pairs(tmp_path: Path) -> None:
    guided = attach_clusters(make_pairs(40), make_static_model(), guide=True, cache_dir=tmp_path / "cache")
    plain = guided.with_format(None).remove_columns(["label"])
    concatenate_datasets([guided.with_format(None), plain]).to_parquet(str(tmp_path / "joined.parquet"))
    with pytest.raises(ValueError, match="40 of 80 rows have no row key"):
        load(tmp_path, tmp_path / "joined.parquet")


def test_row_keys_of_a_guide_are_no_labels_to_learn_from(tmp_path: Path) -> None:
    guided = attach_clusters(make_pairs(40), make_static_model(), guide=True, cache_dir=tmp_path / "cache")
    guided.save_to_disk(tmp_path / "guided")
    assert set(load(tmp_path, tmp_path / "guided")) == set(guided.column_names)


def test_a_column_of_sources_of_another_name_is_that_of_sources(tmp_path: Path) -> None:
    sites = ["web", "wiki"] * 20
    rows = make_pairs(40).add_column("site", sites)
    rows.to_parquet(tmp_path / "a.parquet")
    found = read(tmp_path, tmp_path / "a.parquet", source_column="site", max_rows_per_source=5)
    assert (
        found.column_names == ["query", "passage", "source"] and sorted(found["source"]) == ["web"] * 5 + ["wiki"] * 5
    )
    rows.to_parquet(tmp_path / "b.parquet")
    both = [tmp_path / name for name in ("a.parquet", "b.parquet")]
    assert set(read(tmp_path, *both, source_column="site")["source"]) == {"web", "wiki"}
    with pytest.raises(ValueError, match="The training data has no column 'topic', only"):
        read(tmp_path, tmp_path / "a.parquet", source_column="topic")
    rows.add_column("source", make_pairs(40, 3)["query"][:]).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="rename the text first"):
        read(tmp_path, tmp_path / "c.parquet", source_column="site")
    named = {"source_column": "site", "columns": ["query", "passage"]}
    assert read(tmp_path, tmp_path / "c.parquet", **named)["source"][:] == sites
    rows.add_column("cluster", [1] * 40).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="Attach them anew, --source_column site --overwrite"):
        read(tmp_path, tmp_path / "d.parquet", source_column="site")


def test_without_sources_all_rows_are_of_one_and_a_column_source_is_text(tmp_path: Path) -> None:
    texts = (
        make_pairs(40).rename_columns({"query": "source", "passage": "target"}).select_columns(["source", "target"])
    )
    texts.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path, tmp_path / "a.parquet", source_column="none").column_names == ["source", "target"]
    sources = make_pairs(40).add_column("source", ["some site", "another site"] * 20)
    sources.to_parquet(tmp_path / "b.parquet")
    named = {"source_column": "None", "columns": ["query", "passage"]}
    assert read(tmp_path, tmp_path / "b.parquet", **named).column_names == ["query", "passage"]
    with pytest.raises(ValueError, match="'source', which holds few different values, as sources are"):
        read(tmp_path, tmp_path / "b.parquet", source_column="none")
