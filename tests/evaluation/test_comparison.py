from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from planted import N_TOPICS, make_planted_collection, make_planted_model, make_planted_pairs, make_repeated_pairs

from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.data.collection import Collection
from st_cluster_batches.evaluation.comparison import Comparison, compare
from st_cluster_batches.evaluation.report import redraw
from st_cluster_batches.storage.claims import claim
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


def make_topic_pairs(n_rows: int) -> tuple[Dataset, Collection]:
    return make_planted_pairs(n_rows), make_planted_collection()


def make_workspace(folder: Path, data: tuple[Dataset, Collection], knows_topics: bool = True, **keys: Any) -> Path:
    """Write pairs and a collection, an encoder that knows topics, a model that may know them too, and a recipe."""
    folder.mkdir(exist_ok=True)
    data[0].to_parquet(str(folder / "pairs.parquet"))
    data[1].write(folder / "test")
    make_planted_model(True).save(str(folder / "encoder"))
    make_planted_model(knows_topics).save(str(folder / "model"))
    recipe = {
        "train_data": ["pairs.parquet"],
        "data_dir": str(folder),
        "eval_tasks": ["test"],
        "encoder": str(folder / "encoder"),
        "model_name_or_path": str(folder / "model"),
        "n_clusters": N_TOPICS,
        "per_device_train_batch_size": 16,
        "num_train_epochs": 1,
        "learning_rate": 0.01,
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "unused"),
        **keys,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"


TWO = {"random": {"batch_sampler": "random"}, "cluster": {"batch_sampler": "cluster"}}


def test_cluster_batches_win_where_negatives_of_the_topic_are_needed(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(1200), variants=TWO)
    results = compare(recipe, tmp_path / "out", n_seeds=2)["results"]
    difference = results["cluster"]["difference"]
    assert difference["mean"] > 0.1 and difference["low"] > 0.05 and difference["p_value"] < 0.01
    assert results["cluster"]["hardness"]["negative"] > results["random"]["hardness"]["negative"] + 0.3


@pytest.mark.slow
def test_a_variant_is_tuned_on_its_own_training_pairs(tmp_path: Path) -> None:
    variants = {"random": {"batch_sampler": "random"}, "tuned": {"tuned": "auto"}}
    own = {"n_clusters": None, "per_device_train_batch_size": 8}
    recipe = make_workspace(tmp_path, make_topic_pairs(900), variants=variants, **own)
    results = compare(recipe, tmp_path / "out", n_seeds=1)["results"]
    chosen = Choice.load(tmp_path / "out" / "tuned" / "tuned").sources["all"]
    assert chosen.cluster_size is not None and results["tuned"]["difference"]["mean"] > 0.1
    assert results["tuned"]["tune_seconds"] > results["random"]["tune_seconds"] == 0
    table = (tmp_path / "out" / "results.md").read_text().partition("| batches | tune s | attach s |")[2]
    assert f"| tuned | {results['tuned']['tune_seconds']:.0f} |" in table
    with pytest.raises(ValueError, match="tuned: auto is for compare"):
        prepare_run(read_recipe(recipe, ["--tuned", "auto"]))


@pytest.mark.slow
def test_a_refresh_is_compared_and_its_time_is_told(tmp_path: Path) -> None:
    own = {"batch_sampler": "random", "refresh_every": 1, "refresh_cluster_size": 20}
    variants = {"random": TWO["random"], "own": own, "coarse": {**own, "refresh_cluster_size": 50}}
    recipe = make_workspace(tmp_path, make_topic_pairs(400), variants=variants, num_train_epochs=3)
    results = compare(recipe, tmp_path / "out", n_seeds=1)["results"]
    assert results["random"]["refresh_seconds"] is None
    assert all(0 < results[name]["refresh_seconds"] < results[name]["train_seconds"] for name in ("own", "coarse"))
    assert len({one["mean"] for one in results.values()}) == 3
    table = (tmp_path / "out" / "results.md").read_text()
    assert f"`own` {results['own']['refresh_seconds']:.1f} s, `coarse`" in table


@pytest.mark.slow
def test_false_negatives_all_over_a_topic_make_cluster_batches_lose_unless_they_are_kept_apart(tmp_path: Path) -> None:
    variants = {**TWO, "meeting": {"keep_false_negatives_apart": False}}
    own = {"variants": variants, "per_device_train_batch_size": 8}  # fewer rows than there are answers
    recipe = make_workspace(tmp_path, make_repeated_pairs(800), knows_topics=False, **own)
    results = compare(recipe, tmp_path / "out", n_seeds=2)["results"]
    assert results["meeting"]["difference"]["high"] < 0 and results["meeting"]["counts"][0]["pure"] > 40
    assert results["cluster"]["difference"]["low"] >= -0.01
    assert results["cluster"]["counts"][0]["given_up"] > 40 and results["cluster"]["counts"][0]["repeats"] < 10


def read_keys(data: Any) -> list[list[int]]:
    return [sorted(keys) for keys in data.with_format(None)["false_negative_keys"]]


@pytest.mark.parametrize("threshold", [pytest.param(None, marks=pytest.mark.slow), 0.9])
def test_all_variants_get_the_same_keys_unless_one_says_otherwise(tmp_path: Path, threshold: float | None) -> None:
    pairs, collection = (make_topic_pairs if threshold else make_repeated_pairs)(200)
    pairs = pairs.add_column("source", ["ab"[at % 2] for at in range(200)])
    variants = {
        **TWO,
        "source": {"batch_sampler": "source"},
        "coarse": {"n_clusters": 2},
        "meeting": {"batch_sampler": "random", "keep_false_negatives_apart": False},
        "stock": {"batch_sampler": "stock"},
    }
    keys = {"variants": variants, "max_steps": 2, "false_negative_threshold": threshold}
    recipe = make_workspace(tmp_path, (pairs, collection), **keys)
    comparison = Comparison.prepare(recipe, tmp_path / "out", 1)
    shared = ("random", "cluster", "source", "coarse")
    found = [read_keys(comparison.variants[name].labelled.dataset) for name in shared]
    assert found[0] == found[1] == found[2] == found[3]
    assert (max(map(len, found[0])) > 2) == (threshold is not None)
    results = comparison.run()["results"]
    apart = {name for name, one in results.items() if one["keeps_false_negatives_apart"]}
    assert apart == {"random", "cluster", "source", "coarse"}
    table = (tmp_path / "out" / "results.md").read_text()
    assert "kept apart in `random`, `cluster`, `source`, `coarse` and not in `meeting`, `stock`" in table


def run_compare(recipe: Path, output: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "st_cluster_batches", "compare", str(recipe), "--output", str(output), *words]


def read_times(output: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (output / "runs").glob("*.json")}


@pytest.mark.slow
def test_after_a_kill_nothing_finished_is_repeated(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(400), variants=TWO)
    output = tmp_path / "out"
    command = run_compare(recipe, output, "--seeds", "3", "--json")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(read_times(output)) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = read_times(output)
    assert 2 <= len(finished) < 6
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = read_times(output)
    assert len(again) == 6 and again.items() >= finished.items()
    assert not [path for path in (output / "runs").iterdir() if path.is_dir()]
    untouched = compare(recipe, tmp_path / "untouched", n_seeds=3)
    assert {name: one["mean_by_seed"] for name, one in json.loads(done.stdout)["results"].items()} == {
        name: one["mean_by_seed"] for name, one in untouched["results"].items()
    }


@pytest.mark.slow
def test_two_ranks_train_together_and_write_once(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(400), variants=TWO)
    command = run_compare(recipe, tmp_path / "out", "--seeds", "1", "--json")
    command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "ACCELERATE_USE_CPU": "true"}, timeout=180
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert results["cluster"]["counts"][0]["global_batch_size"] == 32
    assert len(read_times(tmp_path / "out")) == 2


@pytest.mark.slow
def test_whatever_decides_a_run_makes_it_another_run(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(200), variants=TWO, max_steps=2)
    output = tmp_path / "out"
    compare(recipe, output, n_seeds=1)
    first = read_times(output)
    compare(
        recipe,
        output,
        n_seeds=1,
        overrides=["--logging_steps", "7", "--cache_dir", str(tmp_path / "other")],
    )
    assert read_times(output) == first
    compare(recipe, output, n_seeds=1, overrides=["--learning_rate", "0.02"])
    assert len(read_times(output)) == 4
    data = make_topic_pairs(200)
    data[1].corpus["d0-0-1"] = ("", "ptopic1")
    data[1].write(tmp_path / "test")
    compare(recipe, output, n_seeds=1)
    assert len(read_times(output)) == 6
    # Other clusters change the runs that use them, and no other.
    compare(recipe, output, n_seeds=1, overrides=["--n_clusters", "3"])
    assert len(read_times(output)) == 7


@pytest.mark.slow
def test_one_encoder_measures_the_batches_of_all_runs(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(200), variants=TWO, max_steps=2)
    own = {"n_seeds": 1, "overrides": ["--encoder", str(tmp_path / "other")]}
    make_planted_model(False, seed=1).save(str(tmp_path / "other"))
    compare(recipe, tmp_path / "out", n_seeds=1)
    scores = {path.name: json.loads(path.read_text())["per_query"] for path in (tmp_path / "out/runs").glob("*.json")}
    changed, fresh = (compare(recipe, tmp_path / name, **own)["results"] for name in ("out", "fresh"))
    assert {name: one["hardness"] for name, one in changed.items()} == {
        name: one["hardness"] for name, one in fresh.items()
    }
    random = next(name for name in scores if name.startswith("random"))
    assert json.loads((tmp_path / "out/runs" / random).read_text())["per_query"] == scores[random]
    times = read_times(tmp_path / "out")
    compare(recipe, tmp_path / "out", **own)
    assert read_times(tmp_path / "out") == times


def test_all_runs_of_a_seed_take_the_same_steps(tmp_path: Path) -> None:
    # Half of the rows share a passage, and none is left out for it.
    pairs, collection = make_topic_pairs(200)
    pairs = pairs.map(lambda row, at: {"passage": "ptopic0 pdetail0"} if at < 100 else row, with_indices=True)
    recipe = make_workspace(tmp_path, (pairs, collection), variants=TWO)
    # A part of an epoch, 12.35 steps, is as many as `train` takes.
    results = compare(recipe, tmp_path / "out", n_seeds=1, overrides=["--num_train_epochs", "0.95"])
    steps = {json.loads(path.read_text())["steps"] for path in (tmp_path / "out" / "runs").glob("*.json")}
    assert steps == {results["steps"]} == {13}
    assert results["results"]["cluster"]["counts"][0]["dropped"] == 0


def test_without_variants_the_strategies_are_compared_that_the_data_has(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(100), max_steps=1)
    assert list(compare(recipe, tmp_path / "out", n_seeds=1)["results"]) == ["random", "cluster"]


def test_two_comparisons_do_not_work_in_one_folder(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(100), max_steps=1)
    (tmp_path / "out").mkdir()
    with claim(tmp_path / "out", "compare"), pytest.raises(OSError, match="Another process is at work in"):
        compare(recipe, tmp_path / "out", n_seeds=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_lock"]


def test_a_damaged_record_is_named_and_its_run_done_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(100), variants=TWO, max_steps=1)
    compare(recipe, tmp_path / "out", n_seeds=1)
    before = read_times(tmp_path / "out")
    damaged = next((tmp_path / "out" / "runs").glob("cluster-*.json"))
    damaged.write_text('{"steps":')
    compare(recipe, tmp_path / "out", n_seeds=1)
    assert f"{damaged} is damaged (9 bytes: " in caplog.text and "ndcg_at_10" in json.loads(damaged.read_text())
    after = read_times(tmp_path / "out")
    assert {name for name in after if after[name] != before[name]} == {damaged.name}


def test_held_out_pairs_take_the_place_of_the_test_collections(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(400), variants=TWO, held_out_queries=20, max_steps=2)
    results = compare(recipe, tmp_path / "out", n_seeds=1)
    assert list(results["queries"]) == ["held_out"] and results["queries"]["held_out"] == 20
    assert results["pairs"] < 400


def test_everything_is_drawn_again_from_the_results(tmp_path: Path) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(200), variants=TWO, max_steps=2)
    compare(recipe, tmp_path / "out", n_seeds=2)
    names = ["results.md"] + [
        f"{name}.{kind}"
        for name in ("ndcg_by_strategy", "hardness", "differences_by_collection")
        for kind in ("png", "svg")
    ]
    drawn = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / "out" / name).unlink()
    redraw(tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names} == drawn
    assert "Standard deviation of `random` between seeds: 0." in drawn["results.md"].decode()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"eval_tasks": None}, "names no eval_tasks"),
        ({"eval_tasks": ["nowhere"]}, "neither a folder here nor the name"),
        ({"variants": {"random": {"batch_sampler": "random"}}}, "two names or more"),
        ({"variants": {**TWO, "longer": {"num_train_epochs": 9}}}, "Variant 'longer' sets 'num_train_epochs'"),
        ({"variants": {**TWO, "k/9": {"n_clusters": 9}}}, "cannot name a variant"),
        ({"variants": {**TWO, "finer": {"n_cluster": 9}}}, "Variant 'finer' sets 'n_cluster'"),
        ({"variants": {**TWO, "finer": {"cluster_size": 9}}}, "exclude each other"),
        ({"variants": TWO, "push_to_hub": True}, "--push_to_hub false, and publish the model"),
        (
            {"variants": TWO, "per_device_train_batch_size": 500, "dataloader_drop_last": True},
            "200 rows fill no batch of 500",
        ),
    ],
)
def test_bad_input_is_refused_before_any_training(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    recipe = make_workspace(tmp_path, make_topic_pairs(200), **keys)
    with pytest.raises(ValueError, match=message):
        compare(recipe, tmp_path / "out", n_seeds=1)
    assert not (tmp_path / "out" / "runs").exists()
