from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import ABOUT, make_records

from st_cluster_batches.evaluation.figures import draw_figures
from st_cluster_batches.evaluation.report import describe_results, redraw, write_report
from st_cluster_batches.evaluation.summary import summarise_runs


def test_only_real_differences_are_marked() -> None:
    text = describe_results(summarise_runs(make_records(), ABOUT))
    easy, hard = (
        next(line for line in text.splitlines() if line.startswith(f"| {task}")) for task in ("easy", "hard")
    )
    assert "*" in easy and "*" not in hard


def test_variants_are_compared_with_one_another_too() -> None:
    records = make_records()
    third = [{**record, "variant": "same"} for record in records if record["variant"] == "better"]
    results = summarise_runs([*records, *third], ABOUT)
    assert [(one["variant"], one["to"], one["mean"]) for one in results["contrasts"]] == [("same", "better", 0.0)]
    assert "`same` to `better`: +0.0%, 95 % interval +0.0% to +0.0%" in describe_results(results)


def test_a_baseline_that_finds_nothing_is_reported(tmp_path: Path) -> None:
    records = make_records()
    for record in records:
        if record["variant"] == "random":
            record["ndcg_at_10"] = dict.fromkeys(record["ndcg_at_10"], 0.0)
            record["per_query"] = {task: dict.fromkeys(one, 0.0) for task, one in record["per_query"].items()}
    records += [{**record, "variant": "same"} for record in records if record["variant"] == "random"]
    write_report(summarise_runs(records, ABOUT), tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "+0.0000 to +0.0000" in text and "`same` to `better`: -100.0%" in text
    assert (tmp_path / "hardness.png").exists()


def test_variants_that_different_guides_have_masked_are_told_apart() -> None:
    def describe(guide: str) -> str:
        guides = {"random": "one", "better": guide}
        records = [{**one, "masked_share": 0.1, "guide": guides[one["variant"]]} for one in make_records()]
        return describe_results(summarise_runs(records, ABOUT))

    assert "Different guides have masked: `random` and `better`." in describe("other")
    assert "`random` 10.00%, `better` 10.00%." in describe("one") and "Different guides" not in describe("one")


def test_one_seed_is_reported_without_its_noise() -> None:
    results = summarise_runs(make_records(n_seeds=1), ABOUT)
    assert results["spread"]["mean"] is None
    assert "between seeds: unknown" in describe_results(results)


def test_collections_are_explained_where_the_results_know_what_they_hold() -> None:
    assert "- `" not in describe_results(summarise_runs(make_records(), ABOUT))
    told = describe_results(summarise_runs(make_records(), {**ABOUT, "collections": {"one": "films | papers"}}))
    assert told.count("- `one`: films | papers") == 1


def test_figures_name_every_variant_and_collection(tmp_path: Path) -> None:
    files = draw_figures(summarise_runs(make_records(), ABOUT), tmp_path)
    assert len(files) == 6 and all(file.stat().st_size > 1000 for file in files)
    drawn = {file.stem: file.read_text() for file in files if file.suffix == ".svg"}
    assert all("better" in text for text in drawn.values())
    assert "easy" in drawn["differences_by_collection"] and "hard" in drawn["differences_by_collection"]


def test_results_survive_json(tmp_path: Path) -> None:
    results = summarise_runs(make_records(), ABOUT)
    write_report(results, tmp_path)
    assert redraw(tmp_path) == json.loads(json.dumps(results))
    with pytest.raises(FileNotFoundError, match=r"has no results.json"):
        redraw(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("content", "fault"),
    [("{", "Expecting"), ("{}", "it has no baseline, contrasts, pairs, queries"), ("7", "not iterable")],
)
def test_damaged_results_are_named_with_what_writes_them_again(tmp_path: Path, content: str, fault: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=rf"results\.json is damaged \(.*{fault}.*compare RECIPE.yaml --output"):
        redraw(tmp_path)


RESULTS = sorted((Path(__file__).parents[2] / "recipes").glob("*/*/results/results.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.parent.name)
def test_published_tables_are_those_of_the_published_results(path: Path) -> None:
    results = json.loads(path.read_text())
    assert path.with_name("results.md").read_text() == describe_results(results) + "\n"
    assert results["seeds"] >= 1 and not [word for word in json.dumps(results).split('"') if word.startswith("/")]
    for name in ("ndcg_by_strategy", "hardness", "differences_by_collection"):
        assert path.with_name(f"{name}.png").exists() and path.with_name(f"{name}.svg").exists()
