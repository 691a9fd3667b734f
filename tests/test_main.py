from __future__ import annotations

import ast
import json
import logging
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from st_cluster_batches import Clustering, commands
from st_cluster_batches.__main__ import main
from st_cluster_batches.storage.claims import claim
from st_cluster_batches.usage import explain_at_prompt


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_help_answers_without_loading_what_is_slow_to_load(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "st_cluster_batches", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "st-cluster-batches" in done.stdout
    # Seconds of a clock would be those of whatever else runs here.
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "st_cluster_batches.parsing" in loaded
    slow = {"accelerate", "datasets", "faiss", "matplotlib", "mteb", "numpy", "pyarrow", "scipy", "sklearn", "torch"}
    assert not loaded & {*slow, "huggingface_hub", "sentence_transformers", "transformers"}


def test_a_log_line_goes_above_a_bar_and_not_into_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object) -> commands.Result:
        with tqdm(total=2, desc="Working") as bar:
            bar.update()
            logging.getLogger("st_cluster_batches").info("half done")
        return {}, ""

    monkeypatch.setattr(commands, "demo", work)
    assert main(["demo"]) == 0
    lines = re.split(r"[\r\n]", capsys.readouterr().err)
    assert [line for line in lines if "half done" in line] == ["half done"]
    assert any("Working" in line for line in lines)


def test_attach_writes_labelled_data_with_its_clustering(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attach", f"{workspace}/pairs.parquet", f"{workspace}/out", "--encoder", f"{workspace}/encoder"]
    assert main([*words, "--n_clusters", "3"]) == 0
    assert "120" in capsys.readouterr().out
    assert set(load_from_disk(str(workspace / "out")).column_names) >= {"cluster", "false_negative_keys"}
    assert Clustering.load(workspace / "out").centroids["all"].shape == (3, 16)
    assert main([*words, "--n_clusters", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["statistics"]["all"]["clusters"] == 2


@pytest.mark.parametrize("resume", ["true", "{}/checkpoint-4"])
def test_a_run_of_planned_batches_is_not_resumed_in_the_stock_order(
    trained: Path, capsys: pytest.CaptureFixture[str], resume: str
) -> None:
    words = ["--batch_sampler", "stock", "--resume_from_checkpoint", resume.format(trained), "--max_steps", "12"]
    assert main(["train", f"{trained.parent}/recipe.yaml", *words]) == 2
    assert "trained on planned batches, and batch_sampler: stock takes another order" in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["random", "cluster"])
def test_train_leaves_a_model_its_recipe_its_plan_and_its_scores(
    workspace: Path, capsys: pytest.CaptureFixture[str], strategy: str
) -> None:
    assert main(["train", f"{workspace}/recipe.yaml", "--batch_sampler", strategy]) == 0
    out = capsys.readouterr().out
    assert "held_out" in out and "train_runtime" not in out
    run = workspace / "run"
    SentenceTransformer(str(run / "model")).encode(["soup"])
    if strategy == "cluster":
        plan = json.loads((run / "batch_plan.json").read_text())[0]
        assert plan["strata"] == {"0": ["source", "cluster"]} and sum(plan["counts"].values()) >= 120 // 8
    assert main(["train", f"{run}/recipe.yaml", "--output_dir", f"{workspace}/again", "--max_steps", "1"]) == 0
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert summary["held_out"]["queries"] == 20
    assert (run / "clustering").exists() == (strategy == "cluster")


def test_train_evaluates_as_the_recipe_says(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("st_cluster_batches.evaluation.runs.evaluate", lambda *_, **given: asked.update(given) or {})
    words = ["--per_device_eval_batch_size", "7", "--max_steps", "1", "--missing", "drop"]
    assert main(["train", f"{workspace}/recipe.yaml", *words]) == 0
    assert (asked["batch_size"], asked["judging"].missing) == (7, "drop")


def test_a_training_that_diverges_leaves_no_model(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--learning_rate", "1e38", "--batch_sampler", "random", "--max_steps", "20"]
    assert main(["train", f"{workspace}/recipe.yaml", *words]) == 1
    assert "error: The model has 1 weights with NaN or infinite values" in capsys.readouterr().err
    assert not (workspace / "run" / "model").exists()


def test_evaluate_keeps_every_query(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", f"{workspace}/encoder", "--tasks", f"{workspace}/held_out", "--output", f"{workspace}/scores"]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    per_query = json.loads((workspace / "scores" / "per_query" / "held_out.json").read_text())
    assert printed["held_out"]["ndcg_at_10"] == pytest.approx(sum(per_query.values()) / 20)


def test_compare_prints_what_it_writes_and_draws_it_again(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", f"{workspace}/recipe.yaml", "--output", f"{workspace}/compared", "--seeds", "1"]
    with (workspace / "recipe.yaml").open("a") as recipe:
        recipe.write("variants: {random: {batch_sampler: random}, fine: {n_clusters: 10}}\n")
    assert main([*words, "--json", "--max_steps", "3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((workspace / "compared" / "results.json").read_text())
    assert printed["steps"] == 3 and list(printed["results"]) == ["random", "fine"]
    assert str(workspace) not in json.dumps(printed["overrides"])
    (workspace / "compared" / "hardness.svg").unlink()
    assert main(["compare", "--redraw", f"{workspace}/compared"]) == 0
    assert "| fine |" in capsys.readouterr().out
    assert (workspace / "compared" / "hardness.svg").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["train", "{}/missing.yaml"], "There is no recipe"),
        (["train", "{}/recipe.yaml", "--learning_rat", "1"], "did you mean 'learning_rate'"),
        (["train", "{}/recipe.yaml", "--train_data", "missing.parquet"], "There is no missing.parquet in"),
        (["train", "{}/recipe.yaml", "--eval_tasks", "missing"], "neither a folder here nor the name of an mteb task"),
        (["train", "{}/recipe.yaml", "--batch_sampler", "source"], "no column 'source'"),
        (
            ["train", "{}/recipe.yaml", "--per_device_train_batch_size", "500", "--dataloader_drop_last"],
            "120 rows fill no batch",
        ),
        (["attach", "{}/none", "{}/out", "--encoder", "x"], "neither a file or folder here nor a dataset"),
        (["attach", "{}/pairs.parquet", "{}/out", "--encoder", "{}/none"], "none"),
        (["attach", "{}/pairs.parquet", "{}/out", "--encoder", "x", "--n_clusters", "0"], "must be at least 1"),
        (["attach", "{}/pairs.parquet", "{}/out", "--encoder", "x", "--n_clusters", "few"], "nor 'auto'"),
        (["attach", "{}/pairs.parquet", "{}/out", "--encoder", "x", "--false_negative_threshold", "2"], "in (0, 1)"),
        (["attach", "{}/pairs.parquet", "{}/out", "--encoder", "x", "--source_column", "site"], "no column 'site'"),
        (
            ["attach", "{}/sourceless.jsonl", "{}/out", "--encoder", "x"],
            "(here: --source_column none of",
        ),
        (["attach", "{}/index.jsonl", "{}/out", "--encoder", "x"], "(here: --columns query passage)"),
        (["tune", "{}/labels.jsonl", "--encoder", "x", "--output", "{}/out"], "--positive_label 1"),
        (["attach", "{}/numbers.jsonl", "{}/out", "--encoder", "x"], "(here: --columns QUERY POSITIVE)"),
        (["evaluate", "{}/encoder", "--tasks", "{}", "--output", "{}/scores"], "has no corpus.parquet"),
        (["evaluate", "{}/encoder", "--tasks", "{}/held_out", "--output", "{}/s", "--batch_size", "0"], "at least 1"),
        (
            ["evaluate", "{}/encoder", "--tasks", "{}/held_out", "--output", "{}/s", "--qrels", "dev"],
            "only qrels.jsonl",
        ),
        (["train", "{}/recipe.yaml", "--qrels", "dev"], "only qrels.jsonl"),
        (["train", "{}/recipe.yaml", "--split", "dev"], "pairs.parquet is one file and has no splits"),
        (["attach", "{}/pairs.parquet", "{}/out", "--encoder", "x", "--revision", "r"], "has no revision 'r'"),
        (["train", "{}/recipe.yaml", "--config", "c"], "pairs.parquet is one file and has no configurations"),
        (
            ["train", "{}/recipe.yaml", "--prompts", '{{"question": "query: "}}'],
            "'question' is none of passage, query",
        ),
        (["compare", "{}/recipe.yaml", "--output", "{}/out", "--seed", "7"], "--seed decides nothing in a comparison"),
        (["compare", "{}/recipe.yaml", "--output", "{}/out", "--batch_sampler", "stock"], "each have their own"),
        (["train", "{}/recipe.yaml", "--resume_from_checkpoint", "true"], "but there is no checkpoint in"),
        (["train", "{}/recipe.yaml", "--resume_from_checkpoint", "{}/gone"], "there is no folder"),
        (
            ["evaluate", "{}/gone", "--tasks", "{}/held_out", "--output", "{}/scores"],
            "gone is neither a folder here nor",
        ),
        (
            ["attach", "{}/pairs.parquet", "{}/out", "--encoder", "{}/gone"],
            "gone is neither a folder here nor a model",
        ),
        (
            ["train", "{}/recipe.yaml", "--learning_rate_mapping", '{{"foo": 0.1}}'],
            "'foo' fits the name of no",
        ),
        (["train", "{}/recipe.yaml", "--max_seq_length", "2"], "which reads texts of any length"),
        (["train", "{}/recipe.yaml", "--per_device_train_batch_size", "1"], "so the loss has no negative"),
        (["train", "{}/recipe.yaml", "--columns", "query"], "name both, as in `columns: [query, passage]`"),
        (
            ["train", "{}/recipe.yaml", "--output_dir", "{}/pairs.parquet"],
            "pairs.parquet is a file; a folder",
        ),
        (["train", "{}/recipe.yaml", "--output_dir", "/proc/x"], "Nothing can be written to /proc/x"),
        (["attach", "{}/pairs.parquet", "/proc/x", "--encoder", "x"], "Nothing can be written to /proc"),
        (["inspect", "{}/pairs.parquet", "--output", "{}"], "is a folder; name a file"),
        (["compare", "{}/recipe.yaml"], "compare takes either RECIPE.yaml with --output DIR"),
        (["compare"], "compare takes either RECIPE.yaml"),
        (["compare", "--redraw", "here", "--seeds", "7"], "compare --redraw DIR stands alone"),
        (["compare", "--redraw", "{}"], "has no results.json"),
        (
            ["compare", "{}/recipe.yaml", "--output", "{}/out", "--seeds", "0"],
            "n_seeds=0 must be at least 1 (here: --seeds)",
        ),
        (["compare", "{}/recipe.yaml", "--output", "{}/out", "--learning_rat", "1"], "did you mean 'learning_rate'"),
        (["demo", "--seeds", "0", "--output", "{}/demo"], "--seeds=0 must be at least 1"),
        (["demo", "--pairs", "10", "--output", "{}/demo"], "--pairs=10 must be at least 1000"),
        (["publish", "{}/encoder", "a/b", "--create-pr", "--revision", "v1"], "not allowed with argument --create-pr"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    workspace: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    for name, row in {
        "numbers": {"query": "a", "passage": 1},
        "sourceless": {"query": "a", "passage": "b", "source": None},
        "index": {"Unnamed: 0": 1, "query": "a", "passage": "b"},
        "labels": {"query": "a", "passage": "b", "label": 1},
    }.items():
        rows = [row, {**row, "query": "c", "passage": "d" if isinstance(row["passage"], str) else 2}] * 2
        if name == "sourceless":
            rows[0] = {**row, "source": "s"}
        (workspace / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert main([word.format(workspace) for word in words]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("st-cluster-batches: error:")]
    assert len(errors) == 1 and message in errors[0]
    assert captured.out == ""
    assert not (workspace / "run" / "model").exists()


def test_a_refused_resume_is_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(trained.parent / "recipe.yaml"), "--resume_from_checkpoint", "true", "--n_clusters", "5"]
    assert main([*words, "--max_steps", "12"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("st-cluster-batches: error: The checkpoint was trained on other batches: the labels have")
    assert line.endswith("(here: --resume_from_checkpoint false)")
    assert {"recipe.yaml", "batch_plan.json", "hub_ids.json", "clustering"} <= {one.name for one in trained.iterdir()}


def test_two_trainings_do_not_work_in_one_folder(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "run").mkdir()
    with claim(workspace / "run", "train"):
        assert main(["train", str(workspace / "recipe.yaml")]) == 2
    assert "Another process is at work in" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["attach", "{}/pairs.parquet", "{}/out", "--encoder", "{}/encoder", "--cache_dir", "{}/new"],
        ["train", "{}/recipe.yaml", "--cache_dir", "{}/new", "--output_dir", "{}/other"],
        ["evaluate", "{}/encoder", "--tasks", "{}/held_out", "--output", "{}/scores"],
        ["compare", "{}/recipe.yaml", "--seeds", "1", "--output", "{}/compared", "--cache_dir", "{}/new"],
        ["build", "{}/run", "--output", "{}/stage"],
        ["build", "{}/labelled", "--output", "{}/stage"],
    ],
    ids=lambda words: f"{words[0]}-{Path(words[1]).name}",
)
def test_a_disk_that_is_full_is_no_fault_of_the_input(trained: Path, words: list[str]) -> None:
    workspace = trained.parent
    attached = ["attach", f"{workspace}/pairs.parquet", f"{workspace}/labelled", "--encoder", f"{workspace}/encoder"]
    assert main([*attached, "--cache_dir", f"{workspace}/cache"]) == 0
    command = [sys.executable, "-m", "st_cluster_batches", *(word.format(workspace) for word in words)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)),  # instead of a small disk
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr or "inline_container" in done.stderr, done.stderr[-300:]


@pytest.mark.parametrize(
    ("message", "words"),
    [("n_workers=0 must be at least 1", "--workers"), ("n_steps, n_layers mean nothing", "--steps, --layers")],
)
def test_numbers_are_said_by_their_flags(message: str, words: str) -> None:
    assert explain_at_prompt(ValueError(message)) == f"{message} (here: {words})"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("say columns=('my question', \"it's (it)\")", "--columns 'my question' 'it'\"'\"'s (it)'"),
        ("say columns=('query', 'passage')", "--columns query passage"),
        ("or name the texts, columns=(...); to keep", None),
    ],
)
def test_columns_are_said_as_a_shell_takes_them(message: str, words: str | None) -> None:
    said = explain_at_prompt(ValueError(message))
    assert said == (message if words is None else f"{message} (here: {words})")
    assert words is None or shlex.split(words)[1:] == list(ast.literal_eval(message.removeprefix("say columns=")))
