"""What a recipe trains on."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import concatenate_datasets
from examples import make_pairs, make_static_model

from st_cluster_batches import attach_clusters
from st_cluster_batches.training.pairs import load_pairs
from st_cluster_batches.training.recipe import parse_values


def load(tmp_path: Path, data: Path) -> list[str]:
    recipe = parse_values(
        {"model_name_or_path": "none", "train_data": [str(data)], "output_dir": str(tmp_path / "out"), "use_cpu": True}
    )
    pairs, _ = load_pairs(recipe, tmp_path / "held_out")
    names: list[str] = pairs.column_names
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
