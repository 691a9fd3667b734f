from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import mteb
import pytest
import yaml
from builds import build, read_files
from datasets import DatasetDict, load_dataset, load_from_disk
from examples import make_pairs
from huggingface_hub import ModelCard
from runs import ABOUT, make_records

from st_cluster_batches import fit_clusters
from st_cluster_batches.__main__ import main
from st_cluster_batches.evaluation.report import write_report
from st_cluster_batches.evaluation.summary import summarise_runs


def test_a_comparison_is_told_with_its_baseline_and_figures(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "compared").mkdir()
    write_report(summarise_runs(make_records(), ABOUT), tmp_path / "compared")
    files = read_files(build(trained, "--comparison", str(tmp_path / "compared")))
    card = files["README.md"].decode()
    table = (tmp_path / "compared" / "results.md").read_text().strip()
    assert f"### Compared with random batches\n\n{table}\n" in card
    assert "It was not compared" not in card
    for name in ("ndcg_by_strategy", "hardness", "differences_by_collection"):
        assert f"![{name.replace('_', ' ')}](figures/{name}.png)" in card
        assert files[f"figures/{name}.png"].startswith(b"\x89PNG")
    assert "results/comparison/results.json" in files


def add_scores(trained: Path, task: str, n_queries: int) -> None:
    """Write down scores as if the model had been evaluated on an official task."""
    evaluation = trained / "evaluation"
    (kept,) = (evaluation / "by_model").glob("*/held_out.json")
    content = json.loads(kept.read_text())
    content["scores"]["per_query"] = {f"q{at}": 0.5 for at in range(n_queries)}
    content["scores"]["ndcg_at_10"] = 0.5
    content["mteb"]["dataset_revision"] = mteb.get_task(task).metadata.dataset["revision"]
    kept.with_name(f"{task}.json").write_text(json.dumps(content))
    summary = json.loads((evaluation / "summary.json").read_text())
    summary[task] = {"ndcg_at_10": 0.5, "queries": n_queries}
    (evaluation / "summary.json").write_text(json.dumps(summary))


def test_leaderboards_are_told_of_complete_official_tasks_alone(trained: Path) -> None:
    add_scores(trained, "SciFact", 300)
    add_scores(trained, "NFCorpus", 300)  # which has 323 queries
    files = read_files(build(trained))
    assert [name for name in files if name.startswith(".eval_results/")] == [".eval_results/SciFact.yaml"]
    (entry,) = yaml.safe_load(files[".eval_results/SciFact.yaml"])
    assert entry["dataset"]["id"] == "mteb/scifact" and entry["value"] == 50.0


def test_every_task_has_results_of_its_own_in_the_front_matter(trained: Path) -> None:
    add_scores(trained, "SciFact", 300)
    card = ModelCard.load(build(trained) / "README.md")
    results = card.data.to_dict()["model-index"][0]["results"]
    assert [one["dataset"]["name"] for one in results] == ["held_out", "SciFact"]
    assert [len(one["metrics"]) for one in results] == [1, 1]


def test_training_rows_are_shown_only_where_the_author_asks_for_it(trained: Path) -> None:
    rows = make_pairs(120)["query"][:]
    told, untold = ((build(trained, *words) / "README.md").read_text() for words in (["--include-samples"], []))
    assert any(row in told for row in rows)
    assert not any(row in untold for row in rows)


def test_a_card_without_its_model_is_not_published(
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage = build(trained)
    for path in stage.glob("*.json"):
        path.unlink()
    assert main(["publish", str(stage), "alice/model"]) == 2
    assert "holds no sentence-transformers model" in capsys.readouterr().err


def test_after_a_kill_between_two_names_the_edited_card_is_found(trained: Path) -> None:
    stage = build(trained)
    card = stage / "README.md"
    card.write_text(card.read_text().replace("# ", "# My own title, not ", 1))
    host = os.uname().nodename
    stage.rename(stage.with_name(f"stage.old.{host}.999999999.tmp"))
    stage.with_name(f"stage.{host}.999999999.tmp").mkdir()
    build(trained)
    assert "# My own title, not" in card.read_text()
    assert [path.name for path in stage.parent.glob("stage*")] == ["stage"]


def test_what_a_card_cannot_say_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"{trained.parent}/labelled"
    words = ["attach", f"{trained.parent}/pairs.parquet", out, "--encoder", f"{trained.parent}/encoder"]
    assert main(words) == 0
    assert main(["build", out, "--output", f"{out}-staged", "--scores", "nope", "--base_model", "a/b"]) == 2
    assert "is labelled data: --scores, --base_model mean nothing to it" in capsys.readouterr().err
    assert main(["publish", str(build(trained)), "alice/model", "--license", "mit"]) == 2
    assert "which is pushed as it is: --license mean nothing" in capsys.readouterr().err


def test_datasets_whose_names_no_split_can_have_are_built_under_others_and_shown(workspace: Path) -> None:
    pairs = load_dataset("parquet", data_files=str(workspace / "pairs.parquet"), split="train")
    names = ["web-pages", "a|b", "all"]
    DatasetDict({name: pairs.select(range(at * 40, at * 40 + 40)) for at, name in enumerate(names)}).save_to_disk(
        str(workspace / "many")
    )
    attached = ["attach", str(workspace / "many"), str(workspace / "out"), "--n_clusters", "2"]
    assert main([*attached, "--encoder", str(workspace / "encoder"), "--cache_dir", str(workspace / "cache")]) == 0
    assert main(["build", str(workspace / "out"), "--output", str(workspace / "stage")]) == 0
    data = load_dataset(str(workspace / "stage"), cache_dir=str(workspace / "read"))
    splits = ["web_pages", "a_b", next(split for split in data if split.startswith("all_"))]
    assert set(data) == set(splits)
    assert [data[split]["query"][0] for split in splits] == [pairs["query"][at] for at in (0, 40, 80)]
    card = (workspace / "stage" / "README.md").read_text(encoding="utf-8")
    assert "| `web_pages` | web-pages | 40 |" in card and "| `a_b` | a\\|b | 40 |" in card


def test_datasets_of_other_columns_are_built_so_that_each_can_be_loaded(workspace: Path, static_model: Any) -> None:
    pairs = [make_pairs(40, seed=seed) for seed in range(3)]
    other = pairs[1].rename_columns({"query": "question", "passage": "answer"})
    other = other.add_column("negative", [f"none of {at}" for at in range(40)])
    given = DatasetDict({"nq": pairs[0], "quora": other, "more": pairs[2]})
    clustering = fit_clusters(given, static_model, n_clusters=3, cache_dir=workspace / "cache")
    labelled = clustering.attach(given)
    labelled.save_to_disk(str(workspace / "out"))
    clustering.save(workspace / "out")
    assert main(["build", str(workspace / "out"), "--output", str(workspace / "stage")]) == 0
    card = (workspace / "stage" / "README.md").read_text(encoding="utf-8")
    assert "Configuration `nq`, of the splits `nq`, `more`:" in card and "| `answer` | string | positive |" in card
    (code,) = re.findall(r"(?s)```python\n(.*?)```", card)
    code = code.replace("sentence_transformers_model_id", str(workspace / "stage"))
    loaded: dict[str, Any] = {}
    exec(code[: code.index("clustering =")], loaded)
    assert {name: part.to_dict() for name, part in loaded["train"].items()} == {
        name: part.to_dict() for name, part in labelled.items()
    }


def test_labelled_data_are_described_column_by_column(workspace: Path) -> None:
    attached = ["attach", str(workspace / "pairs.parquet"), str(workspace / "out"), "--n_clusters", "3"]
    assert main([*attached, "--encoder", str(workspace / "encoder"), "--cache_dir", str(workspace / "cache")]) == 0
    assert main(["build", str(workspace / "out"), "--output", str(workspace / "stage")]) == 0
    card = (workspace / "stage" / "README.md").read_text(encoding="utf-8")
    assert "| `cluster` | int64 |" in card and "| `false_negative_keys` | list of int64 | hashes" in card
    data = load_dataset("parquet", data_files=str(workspace / "stage" / "data" / "*.parquet"), split="train")
    assert data["false_negative_keys"][:] == load_from_disk(str(workspace / "out"))["false_negative_keys"][:]
