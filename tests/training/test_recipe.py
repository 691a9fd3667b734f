from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from examples import make_pairs
from sentence_transformers.base.sampler import BatchSamplers

from st_cluster_batches import ClusterBatchSampler
from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.parsing import build_parser
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run
from st_cluster_batches.training.trainer_arguments import TrainingArguments


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "train_data: [a.parquet, b.parquet]\nmodel_name_or_path: some/model\nencoder: static:some/model\n"
        "cluster_size: 300\nlearning_rate: 2e-5\nuse_cpu: true\nlr_scheduler_kwargs: {num_cycles: 2}\n"
        f"max_rows_per_source: null\noutput_dir: {tmp_path / 'out'}\n"
    )
    return path


def test_one_file_fills_every_group_of_parameters(recipe: Path) -> None:
    read = read_recipe(recipe)
    assert read.data.train_data == ["a.parquet", "b.parquet"]
    assert read.data.max_rows_per_source is None
    assert read.model.model_name_or_path == "some/model"
    assert read.clusters.options().clusters.count_clusters(3000, "all") == 10
    assert read.training.learning_rate == 2e-5
    assert read.training.use_cpu is True
    assert read.training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize(
    ("strategy", "sampler"),
    [
        ("random", ClusterBatchSampler.configure(strata=())),
        ("stock", BatchSamplers.BATCH_SAMPLER),
        ("source", ClusterBatchSampler.configure(strata=("source",))),
        ("cluster", ClusterBatchSampler.configure()),
    ],
)
def test_the_strategy_is_one_flag(recipe: Path, strategy: str, sampler: object) -> None:
    read = read_recipe(recipe, ["--batch_sampler", strategy])
    assert read.training.batch_sampler == sampler
    assert read.training.strategy == strategy


def test_the_command_line_wins_over_the_file(recipe: Path) -> None:
    read = read_recipe(recipe, ["--cluster_size", "50", "--train_data", "c.parquet", "--learning_rate=0.1"])
    assert (read.clusters.cluster_size, read.data.train_data) == (50, ["c.parquet"])
    assert read.training.learning_rate == 0.1
    assert read.given["cluster_size"] == "50" and "overrides" not in read.given


def test_what_was_given_is_a_recipe_again(recipe: Path, tmp_path: Path) -> None:
    words = [
        "--train_data",
        "c.parquet",
        "d.parquet",
        "--save-strategy=no",
        "--use_cpu",
        "--lr_scheduler_kwargs",
        "{}",
    ]
    read = read_recipe(recipe, words)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(read.given))
    other = read_recipe(again)
    assert (other.data, other.model, other.clusters) == (read.data, read.model, read.clusters)
    assert other.training.to_json_string() == read.training.to_json_string()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--learning_rat", "1"], "Unknown key 'learning_rat'; did you mean 'learning_rate'"),
        (["--batch_sampler", "topic"], "invalid choice: 'topic'"),
        (["--n_clusters", "lots"], "n_clusters='lots' is neither a number nor 'auto'"),
        (["--cluster_size", "many"], "invalid int value: 'many'"),
        (["--n_clusters", "5"], "n_clusters=5 and cluster_size=300 exclude each other"),
        (["--key", "title"], "invalid choice: 'title'"),
        (["title"], "'title' stands alone; say --key title"),
        (["--output_dir"], "argument --output_dir: expected one argument"),
        (["--eval_tasks"], "argument --eval_tasks: expected at least one argument"),
        (["--max_rows_per_source", "-5"], "max_rows_per_source=-5 must be at least 1"),
        (["--max_rows_per_source", "0"], "max_rows_per_source=0 must be at least 1"),
        (["--max_negatives", "-1"], "max_negatives=-1 must be at least 0"),
        (["--held_out_queries", "0"], "held_out_queries=0 must be at least 1"),
        (["--held_out_queries", "2000"], "held_out_queries=2000 must be at most held_out_documents=1000"),
        (["--static_dim", "0"], "static_dim=0 must be at least 1"),
        (["--max_seq_length", "-1"], "max_seq_length=-1 must be at least 1"),
        (["--loss", "cached_mnrl", "--mini_batch_size", "0"], "mini_batch_size=0 must be at least 1"),
        (["--cluster_first", "-1"], "cluster_first=-1 must be at least 0"),
    ],
)
def test_bad_values_are_refused_in_one_line(recipe: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_recipe(recipe, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("eval_tasks: []", "eval_tasks", []),  # argparse wants one value at least
        ("loss: guided\nmargin: -0.00001", "margin", -1e-5),  # spelled -1e-05, as an option begins
        ("columns: [-a]", "columns", ["-a"]),
        ("prompts: {query: -q}", "prompts", {"query": "-q"}),
        ("use_cpu:", "use_cpu", False),
    ],
)
def test_values_that_a_command_line_spells_otherwise_are_read(recipe: Path, line: str, key: str, value: Any) -> None:
    recipe.write_text(recipe.read_text().replace("use_cpu: true\n", "") + line)
    read = read_recipe(recipe)
    (found,) = [getattr(one, key) for one in (read.data, read.model, read.training) if hasattr(one, key)]
    assert found == value
    assert read.given[key] == (value or read.given[key])


def test_a_small_negative_number_is_a_value_on_the_command_line_too(recipe: Path) -> None:
    assert read_recipe(recipe, ["--loss", "guided", "--margin", "-1e-2"]).model.margin == -0.01


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold `key: value` lines"),
        ("- a\n- b\n", "not a list"),
        ("a: [1\n", "is no YAML"),
        ("train_dta: [x]\n", "did you mean 'train_data'"),
        ("train_data: [x]\noutput_dir: y\n", "required: --model_name_or_path"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(path)
    with pytest.raises(FileNotFoundError, match="There is no recipe"):
        read_recipe(tmp_path / "missing.yaml")


def test_the_launch_that_a_recipe_documents_is_one_that_exists() -> None:
    path = Path(__file__).parents[2] / "recipes" / "accelerate" / "attach_nodes.yaml"
    command = next(line for line in path.read_text().splitlines() if "accelerate launch" in line).lstrip("# ")
    launcher, program = command.removeprefix("accelerate launch ").split(" -m st_cluster_batches ")
    launch_command_parser().parse_args([*launcher.replace("_rank N", "_rank 0").split(), "x"])
    assert load_config_from_file(str(path)).num_processes == 32
    assert build_parser().parse_args(program.split()).cache_dir == "SHARED"


@pytest.mark.parametrize("strategy", ["random", "source", "cluster"])
def test_a_recipe_refreshes_whatever_fills_the_first_epochs(workspace: Path, strategy: str) -> None:
    make_pairs(120).add_column("source", ["web"] * 120).to_parquet(str(workspace / "pairs.parquet"))
    words = ["--batch_sampler", strategy, "--refresh_every", "1", "--refresh_cluster_size", "20"]
    words += ["--max_steps", "-1", "--num_train_epochs", "2"]
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", words))
    run.train()
    plan = json.loads((workspace / "run" / "batch_plan.json").read_text())[0]
    assert [one["epoch"] for one in plan["refreshes"]] == [1]
    assert plan["refreshes"][0]["clusters"] == 6


@pytest.mark.parametrize(
    "words",
    [
        ["--refresh_first", "2"],
        ["--refresh_first", "1"],  # as by default
        ["--refresh_cluster_size", "100"],
        ["--refresh_every", "1", "--batch_sampler", "stock"],
    ],
    ids=["first", "default first", "default size", "stock"],
)
def test_a_refresh_that_would_be_idle_is_refused(recipe: Path, words: list[str]) -> None:
    with pytest.raises(ValueError, match="decide nothing"):
        read_recipe(recipe, words)


def test_null_on_the_command_line_takes_a_key_out_of_a_recipe(recipe: Path) -> None:
    assert read_recipe(recipe).clusters.options(None, False).clusters.cluster_size == 300
    clusters = read_recipe(recipe, ["--cluster_size", "null", "--n_clusters", "10"]).clusters.options(None, False)
    assert (clusters.clusters.cluster_size, clusters.clusters.n_clusters) == (None, 10)


def test_batches_are_random_before_the_first_epoch_with_clusters(workspace: Path) -> None:
    words = ["--cluster_first", "1", "--max_steps", "-1", "--num_train_epochs", "2"]
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", words))
    sampler = find_samplers(run.trainer.get_train_dataloader())[1][0]
    assert sampler.counts.pure == 0
    sampler.set_epoch(1)
    assert sampler.counts.pure > 0
    with pytest.raises(ValueError, match="cluster_first=1 decides nothing with batch_sampler=random"):
        read_recipe(workspace / "recipe.yaml", ["--cluster_first", "1", "--batch_sampler", "random"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows_per_stratum 4 --batch_sampler random", "rows_per_stratum=4 means nothing to batch_sampler='random'"),
        ("--random_fraction 0.2 --batch_sampler random", "batch_sampler='random', only to source, cluster: take one"),
        ("--random_fraction 0.2 --batch_sampler stock", "random_fraction=0.2 means nothing to batch_sampler='stock'"),
        ("--source_alpha 0.5 --batch_sampler stock", "source_alpha=0.5 means nothing to batch_sampler='stock'"),
        ("--multi_dataset_batch_sampler round_robin", r"round_robin decides nothing .*Give source_alpha=0"),
        ("--mini_batch_size 8", "mini_batch_size=8 means nothing to loss='mnrl', only to cached_mnrl"),
        ("--held_out_documents 5", "held_out_documents=5 means nothing without held_out_queries; give"),
        ("--qrels dev", "qrels='dev' means nothing without eval_tasks"),
        ("--missing drop", "missing='drop' means nothing without eval_tasks"),
        ("--query_regularizer_weight 0.1", "means nothing to loss='mnrl', only to splade"),
        ("--global_batch_size 64", "global_batch_size=64 is for n_clusters='auto' alone"),
    ],
)
def test_an_option_that_would_be_idle_is_refused(recipe: Path, words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, words.split())


def test_random_batches_until_a_refresh_read_what_clusters_do(recipe: Path) -> None:
    words = ["--batch_sampler", "random", "--refresh_every", "1", "--rows_per_stratum", "4"]
    assert read_recipe(recipe, words).training.batch_sampler.options.rows_per_stratum == 4


def test_a_run_says_what_its_data_or_its_strategy_leave_idle(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_pairs(120).add_column("source", ["web"] * 120).to_parquet(str(workspace / "pairs.parquet"))
    words = ["--batch_sampler", "source", "--max_steps", "2"]
    with pytest.raises(ValueError, match=r"source_alpha=0\.5 is for several datasets"):
        prepare_run(read_recipe(workspace / "recipe.yaml", [*words, "--source_alpha", "0.5"]))
    stock = ["--batch_sampler", "stock", "--multi_dataset_batch_sampler", "round_robin"]
    with pytest.raises(ValueError, match="multi_dataset_batch_sampler=round_robin is for several datasets"):
        prepare_run(read_recipe(workspace / "recipe.yaml", [*words, *stock]))
    prepare_run(read_recipe(workspace / "recipe.yaml", [*words, "--key", "passage"]))
    line = [one for one in caplog.messages if "takes no clusters" in one][-1]
    assert line == "batch_sampler: source takes no clusters, so nothing here is decided by n_clusters, key"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["stock"], ["batch_sampler: stock takes no clusters", "for batch_sampler: stock keeps no"]),
        (["random", "--keep_false_negatives_apart", "false"], ["random takes no clusters", "apart: false keeps no"]),
        (["cluster", "--keep_false_negatives_apart", "false"], ["apart: false keeps no false negatives apart"]),
        (["random"], []),
    ],
)
def test_a_threshold_that_nothing_reads_hides_no_warning_and_has_its_own(
    workspace: Path, caplog: pytest.LogCaptureFixture, words: list[str], lines: list[str]
) -> None:
    words = ["--batch_sampler", *words, "--false_negative_threshold", "0.99", "--max_steps", "2"]
    prepare_run(read_recipe(workspace / "recipe.yaml", words))
    found = [one for one in caplog.messages if "takes no clusters" in one or "decides nothing" in one]
    for line, message in zip(lines, found, strict=True):
        assert line in message and ("n_clusters" in message or "0.99 decides nothing here" in message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows_per_stratum", "8", "--per_device_train_batch_size", "4"], "must divide the 4 rows of a global"),
        (["--rows_per_stratum", "6", "--per_device_train_batch_size", "16"], "the nearest is 4"),
        (["--rows_per_stratum", "4", "--batch_sampler", "source"], "rows_per_stratum=4 means nothing"),
        (["--cluster_first", "2", "--refresh_every", "1"], "give refresh_first=2"),
        (["--tuned", "auto"], "leave cluster_size out"),
        (["--communities", "true"], "method: communities takes them unasked"),
        (["--num_train_epochs", "0"], "num_train_epochs=0 train nothing"),
        (["--eval_strategy", "epoch"], "eval_strategy=epoch needs an eval_dataset, and no recipe has one"),
        (["--eval_on_start", "true"], "eval_on_start=True needs an eval_dataset, and no recipe has one"),
        (["--load_best_model_at_end", "true", "--save_strategy", "no"], "load_best_model_at_end=True needs an eval_"),
        (["--metric_for_best_model", "loss"], "metric_for_best_model=loss needs an eval_dataset"),
        (["--save_strategy", "best"], "save_strategy=best needs an eval_dataset"),
        (["--eval_steps", "10"], "eval_steps=10.0 needs an eval_dataset"),
        (["--do_eval", "true"], "do_eval=True needs an eval_dataset"),
        (["--bf16_full_eval", "true"], "bf16_full_eval=True needs an eval_dataset"),
        (["--include_for_metrics", "loss"], r"include_for_metrics=\['loss'\] needs an eval_dataset"),
        (["--max_steps", "0"], "max_steps=0 and num_train_epochs=3 train nothing"),
        (["--cluster_first", "3"], "cluster_first=3 is never reached: num_train_epochs=3"),
        (["--refresh_every", "1", "--num_train_epochs", "1"], "refresh_first=1 is never reached"),
        (["--refresh_every", "1", "--refresh_guide", "true"], "loss: mnrl has none; take loss: guided"),
    ],
)
def test_batches_that_cannot_be_filled_are_refused_while_the_recipe_is_read(
    recipe: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, words)


def test_negatives_are_those_of_all_devices_where_the_loss_gathers(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda _: 4))
    words = ["--per_device_train_batch_size", "8"]
    assert read_recipe(recipe, words).rows_compared == 8
    assert read_recipe(recipe, [*words, "--gather_across_devices", "true"]).rows_compared == 32


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        ("cluster_size: 30", "", "the key 'cluster_size' stands twice, in lines 4 and 10"),
        ("? [a, b]\n: 30", "", "is no YAML: .* found unhashable key"),
        ("max_cluster_size: [20, 30]", "", "max_cluster_size takes one value, and not 20, 30"),
        ("model: x", "", "'model'; did you mean 'model_name_or_path'"),
        ("batch_size: 8", "", "did you mean 'per_device_train_batch_size'"),
        ("", "--learning_rate 0", "learning_rate=0 trains nothing"),
        (
            "auto_find_batch_size: true",
            "",
            "decides nothing: .* keep per_device_train_batch_size=8",
        ),
        ("dataloader_persistent_workers: true", "", "give dataloader_num_workers: 1"),
        ("train_sampling_strategy: group_by_length", "", "train_sampling_strategy=group_by_length decides nothing"),
    ],
)
def test_a_value_that_would_be_idle_or_none_is_named_with_its_key(
    recipe: Path, lines: str, words: str, message: str
) -> None:
    recipe.write_text(f"{recipe.read_text()}{lines}\n")
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, words.split())


def test_a_word_that_a_later_one_replaces_is_told_of(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_recipe(recipe, ["--cluster_size", "30", "--cluster-size", "40"]).clusters.cluster_size == 40
    assert caplog.messages == ["--cluster_size stands twice: the last one counts, ['30'] decides nothing"]


def test_the_home_folder_is_found_in_a_file_where_no_shell_replaces_it(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    recipe.write_text(recipe.read_text().replace("[a.parquet, b.parquet]", "[~/a.parquet]") + "cache_dir: ~/cache\n")
    read = read_recipe(recipe)
    assert read.data.train_data == ["/home/ann/a.parquet"] and read.clusters.cache_dir == "/home/ann/cache"
