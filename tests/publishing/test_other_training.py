from __future__ import annotations

from typing import Any

import pytest

from st_cluster_batches.publishing.other_training import list_differences

RECIPE: dict[str, Any] = {
    "model_name_or_path": "static",
    "train_data": ["pairs.parquet"],
    "learning_rate": 0.01,
    "n_clusters": 10,
    "output_dir": "run",
}
COMPARED: dict[str, Any] = {
    "recipe": {
        "model_name_or_path": "static",
        "train_data": "pairs.parquet",
        "variants": {"random": {"batch_sampler": "random"}, "fine": {"n_clusters": 10}, "mixed": {"cluster_size": 50}},
    },
    "overrides": ["--learning_rate", "1e-2"],
}


def test_a_comparison_of_the_same_training_with_more_variants_differs_in_nothing() -> None:
    assert list_differences(RECIPE, COMPARED) == []
    assert list_differences({}, COMPARED) == list_differences(RECIPE, None) == list_differences(RECIPE, {}) == []
    of_sources = {**RECIPE, "batch_sampler": "random"}
    del of_sources["n_clusters"]
    assert list_differences(of_sources, COMPARED) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_name_or_path": "bert"}, "model_name_or_path is called static there and bert here"),
        ({"train_data": ["others"]}, "train_data is called pairs.parquet there and others here"),
        ({"learning_rate": 0.001}, "learning_rate is 0.01 there and 0.001 here"),
        ({"max_steps": 8}, "max_steps is -1 there and 8 here"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is not given there and 2 here"),
        ({"n_clusters": 20}, "n_clusters is 10 there and 20 here"),
        ({"cluster_size": 50}, "cluster_size is not given there and 50 here"),  # in another variant
        ({"refresh_every": 1}, "refresh_every is not given there and 1 here"),
        ({"loss": "guided"}, "loss is mnrl there and guided here"),
    ],
)
def test_other_training_is_told_key_by_key(changed: dict[str, Any], said: str) -> None:
    assert list_differences({**RECIPE, **changed}, COMPARED) == [said]


def test_the_nearest_variant_is_one_of_the_same_kind_of_batches() -> None:
    variants = {"random": {"batch_sampler": "random"}, "fine": {"cluster_size": 20, "rows_per_stratum": 4}}
    found = list_differences(RECIPE, {**COMPARED, "recipe": {**COMPARED["recipe"], "variants": variants}})
    assert {one.split(" ")[0] for one in found} == {"n_clusters", "cluster_size", "rows_per_stratum"}


def test_every_key_that_decides_what_is_learned_is_looked_at() -> None:
    told = {
        "method": "communities",
        "key": "passage",
        "encoder": "other",
        "keep_false_negatives_apart": False,
        "truncate_dim": 8,
        "source_alpha": 0.5,
        "gather_across_devices": True,
        "max_seq_length": 64,
        "gradient_accumulation_steps": 2,
        "max_rows_per_source": 50,
        "warmup_steps": 5,
    }
    found = list_differences({**RECIPE, **told}, COMPARED)
    assert sorted(one.split(" ")[0] for one in found) == sorted(told)
    silent = {"cache_dir": "x", "seed": 7, "logging_steps": 3, "eval_tasks": ["x"], "attn_implementation": "eager"}
    assert list_differences({**RECIPE, **silent}, COMPARED) == []
