from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from examples import label_pairs, make_pairs, make_static_model
from sentence_transformers import SentenceTransformer

from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.clustering import Clustering
from st_cluster_batches.demo.comparison import STRATEGIES, Demo, gather_pairs, run_demo
from st_cluster_batches.demo.description import describe_demo
from st_cluster_batches.demo.docstrings import Docstring
from st_cluster_batches.demo.source_rate import choose_rate
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.storage.shared_cache import SharedCache


@pytest.mark.slow
def test_rate_of_single_source_batches_is_the_best_of_its_neighbours() -> None:
    pairs = label_pairs(make_pairs(600))
    start = Start.load(make_static_model(), Path("unused"))
    rate = choose_rate(pairs.with_format(None), start, 16)
    assert rate in {0.0125 * 2.0**power for power in range(-3, 6)}
    assert choose_rate(pairs.with_format(None), start, 16) == rate


def describe(chosen: str, low: float, high: float, seeds: int = 3, corrected: float = 0.02) -> str:
    """Describe made-up results, of which the choice is one of two ways."""

    def make_difference(low: float, high: float) -> dict[str, float]:
        return {"mean": (low + high) / 2, "low": low, "high": high, "p_value": 0.01, "corrected_p_value": corrected}

    def make_variant(score: float, **more: Any) -> dict[str, Any]:
        return {
            "mean": score,
            "mean_by_seed": [score],
            "tasks": {"unseen": {"mean": score, "by_seed": [score], **more}},
            **more,
        }

    evidence = {
        "rows": 1000,
        "tuned_rows": 1000,
        "trained_rows": 810,
        "queries": 100,
        "guide_ndcg": None,
        "ndcg": {"random": 0.5, "clusters of 96": 0.53},
        "differences": [{"name": "clusters of 96", "difference": make_difference(0.01, 0.05)}],
        "chosen": chosen,
        "why": "no candidate is better",
    }
    return describe_demo(
        {
            "pairs": 1000,
            "sources": 5,
            "batch_size": 16,
            "steps": 63,
            "seeds": seeds,
            "queries": {"unseen": 50},
            "before": {"unseen": 0.1},
            "results": {
                "random": make_variant(0.5),
                "tuned": make_variant(0.5, difference=make_difference(low, high)),
            },
            "choice": {"batch_size": 16, "about": {}, "evidence": {"all": evidence}},
            "report": "results.md",
            "page": None,
            "model": "model",
        }
    )


def test_it_says_why_it_chose_and_whether_that_held() -> None:
    words = " ".join(describe("clusters of 96", 0.005, 0.02).split())
    assert "choice: clusters of 96. Of 2 ways" in words and "beat random batches by +6.0% (+2.0% to +10.0%)" in words
    assert "unseen +2.5% (+1.0% to +4.0%) the gain is there" in words
    assert "within the noise" in describe("clusters of 96", -0.01, 0.02)
    assert describe("clusters of 96", -0.02, -0.01).count("a loss\n") == 2
    assert "a loss, not clear among several collections" in describe("clusters of 96", -0.02, -0.01, corrected=0.06)
    assert "all of them +2.5% (+1.0% to +4.0%) the gain is there" in words
    assert "The choice: random batches. Of 2 ways" in describe("random", -0.01, 0.02)
    assert "runs differ by their seed alone" in describe("clusters of 96", 0.005, 0.02, seeds=1)
    assert "pip install" in words


def test_the_page_shows_batches_as_they_were_trained_on(tmp_path: Path) -> None:
    make_static_model().save(str(tmp_path / "start"))
    pairs = make_pairs(200).add_column("source", ["one"] * 200)
    choice = Choice({"all": Candidate(32, rows_per_stratum=8)}, 16, "start", "0" * 64)
    demo = Demo(tmp_path, pairs, {}, str(tmp_path / "start"), choice, 0.0, SharedCache(tmp_path / "cache"))
    assert demo.inspect_batches().sample.samplers["cluster"].options.rows_per_stratum == 8


@pytest.mark.parametrize("n_pairs", [0, 1250])
def test_a_bare_environment_is_one_line_that_says_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], n_pairs: int
) -> None:
    found = [Docstring(f"p{at % 5}", f"m{at % 40}", f"Summary {at}", f"Rest {at}") for at in range(n_pairs)]
    monkeypatch.setattr("st_cluster_batches.demo.comparison.collect_docstrings", lambda: found)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("st-cluster-batches: error: ") and line.endswith("PYTHON -m st_cluster_batches demo")
    assert ("leave 3" if n_pairs else "Only 0 installed packages have 200 docstrings") in line


def test_a_start_that_is_no_model_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--start", str(tmp_path)]) == 2
    assert "docstrings" not in capsys.readouterr().err


@pytest.mark.slow
def test_demo_chooses_compares_and_leaves_a_model_that_plain_sentence_transformers_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "st_cluster_batches.demo")
    result = run_demo(tmp_path, *gather_pairs(tmp_path, 2000), n_seeds=1)
    messages = [record.getMessage() for record in caplog.records if ".demo." in record.name]
    assert len(messages) == len(set(messages))
    assert [one[:11] for one in messages if one.startswith("Step")] == [f"Step {step} of 4" for step in range(1, 5)]
    shown = capsys.readouterr()
    assert "Tuning all" in shown.err and "Training and evaluating, tuned batches" in shown.err
    assert not [noise for noise in ("widget", "Prompts in use", "train_runtime") if noise in shown.err + shown.out]
    assert tuple(result["results"]) == tuple(STRATEGIES)
    for one in result["results"].values():
        assert all(0 < score < 1 for task in one["tasks"].values() for score in task["by_seed"])
        assert one["keeps_false_negatives_apart"]
    if result["choice"]["evidence"]["all"]["chosen"] == "random":
        assert result["results"]["tuned"]["mean_by_seed"] == result["results"]["random"]["mean_by_seed"]
    assert Choice.load(tmp_path / "tune").describe()["evidence"] == result["choice"]["evidence"]
    assert "<html" in Path(result["page"]).read_text(encoding="utf-8")
    assert str(result["page"]) in describe_demo(result)
    assert Clustering.load(tmp_path / "clustering").assign(["Return the mean of an array."]).shape == (1,)
    assert SentenceTransformer(result["model"]).encode(["Return the mean of an array."]).shape == (1, 256)
    again = run_demo(tmp_path, *gather_pairs(tmp_path, 2000), n_seeds=1)
    assert again["results"] == result["results"]  # their times, too: nothing was trained again
    other = tmp_path / "elsewhere"
    elsewhere = run_demo(other, *gather_pairs(other, 2000), n_seeds=1)
    for name, one in elsewhere["results"].items():
        assert one["tasks"] == result["results"][name]["tasks"]
