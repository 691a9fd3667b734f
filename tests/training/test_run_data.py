from __future__ import annotations

from pathlib import Path

import pytest
from datasets import DatasetDict
from examples import make_pairs, make_static_model
from trainers import record_texts

from st_cluster_batches import Clustering
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.clusters.output import write_output
from st_cluster_batches.publishing.staging import build_model
from st_cluster_batches.training.recipe import parse_values, read_recipe
from st_cluster_batches.training.run import build_trainer, prepare_run
from st_cluster_batches.training.trainer_arguments import TrainingArguments


@pytest.mark.parametrize("strategy", ["random", "stock"])
def test_random_batches_show_no_label_of_any_dataset(tmp_path: Path, strategy: str) -> None:
    pairs = DatasetDict(
        {
            "a": make_pairs(40),
            "b": make_pairs(40, 1).add_column("source", ["web"] * 40).add_column("cluster", [1] * 40),
        }
    )
    arguments = TrainingArguments(
        str(tmp_path),
        batch_sampler=strategy,
        per_device_train_batch_size=8,
        max_steps=4,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = build_trainer(make_static_model(), pairs, arguments)
    seen = record_texts(trainer)
    trainer.train()
    assert {tuple(name for name in row if name != "dataset_name") for batch in seen for row in batch} == {
        ("query", "passage")
    }


def test_pairs_labelled_with_a_text_called_source_are_held_out_capped_and_guided_as_such(workspace: Path) -> None:
    texts = make_pairs(400).rename_columns({"query": "source", "passage": "target"})
    labelled, clustering = cluster_dataset(
        texts.select_columns(["source", "target"]),
        str(workspace / "encoder"),
        AttachOptions(ClusterOptions(n_clusters=4), source_column=None, guide=True, cache_dir=workspace / "cache"),
    )
    write_output(workspace / "labelled", labelled, clustering)
    recipe = {
        "model_name_or_path": str(workspace / "encoder"),
        "train_data": [str(workspace / "labelled")],
        "output_dir": str(workspace / "out"),
        "loss": "guided",
        "batch_sampler": "cluster",
        "max_rows_per_source": 300,
        "held_out_queries": 10,
        "held_out_documents": 50,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
    }
    run, tasks = prepare_run(parse_values(recipe))
    assert [Path(one).name for one in tasks] == ["held_out"]
    assert 270 <= len(run.trainer.train_dataset) <= 290
    assert {"source", "target"} <= {*run.trainer.train_dataset.column_names}


def test_auto_makes_clusters_of_eight_batches_of_the_run_itself(workspace: Path) -> None:
    words = ["--n_clusters", "auto", "--per_device_train_batch_size", "5"]
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", words))
    assert run.clustering is not None and len(run.clustering.centroids["all"]) == 120 // (8 * 5)
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*words, "--global_batch_size", "3"]))
    assert run.clustering is not None and len(run.clustering.centroids["all"]) == 120 // (8 * 3)


@pytest.mark.parametrize("n_clusters", [1, 4])
def test_a_card_tells_of_pairs_that_were_labelled_before(n_clusters: int, workspace: Path) -> None:
    options = AttachOptions(ClusterOptions(n_clusters=n_clusters), cache_dir=workspace / "cache")
    write_output(workspace / "labelled", *cluster_dataset(make_pairs(120), str(workspace / "encoder"), options))
    words = ["--max_steps", "1"]
    own, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*words, "--n_clusters", str(n_clusters)]))
    changed = ["--train_data", str(workspace / "labelled"), "--output_dir", str(workspace / "again")]
    attached, _ = prepare_run(read_recipe(workspace / "recipe.yaml", [*words, *changed]))
    cards = []
    for run in (own, attached):
        run.train()
        output = Path(run.recipe.training.output_dir)
        cards.append((output / "model" / "README.md").read_text())
        cards.append((build_model(output, output / "built") / "README.md").read_text())
    shared = "**one source**" if n_clusters == 1 else "**one cluster** of one source"
    for card in cards:
        assert shared in card and "The rows were clustered by their `query`, embedded with" in card
        assert f"| all | 120 | {n_clusters} |" in card
    assert ["this repository's id gives the centroids" in card for card in cards] == [True, True, False, False]


def test_a_recipe_clusters_and_keys_by_its_own_column_of_sources_and_its_card_says_so(workspace: Path) -> None:
    rows = make_pairs(120).add_column("site", ["web", "wiki"] * 60)
    rows.to_parquet(workspace / "pairs.parquet")
    assert main(["train", str(workspace / "recipe.yaml"), "--source_column", "site"]) == 0
    assert {*Clustering.load(workspace / "run" / "clustering").centroids} == {"web", "wiki"}
    assert main(["build", str(workspace / "run"), "--output", str(workspace / "staged")]) == 0
    assert "source_column: site" in (workspace / "staged" / "README.md").read_text()
    anew = ["--resume_from_checkpoint", "false"]
    texts = rows.remove_columns("site").rename_column("query", "source").rename_column("passage", "target")
    texts.select_columns(["source", "target"]).to_parquet(workspace / "pairs.parquet")
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", ["--source_column", "none", *anew]))
    assert run.clustering is not None and {*run.clustering.centroids} == {"all"}
    assert {"source", "target"} <= {*run.trainer.train_dataset.column_names}
