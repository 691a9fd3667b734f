"""The scripts in `recipes/in_domain` run, and the tables that they draw are those that are committed."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import make_pairs
from sentence_transformers import SentenceTransformer

SCRIPTS = Path(__file__).parents[1] / "recipes" / "in_domain"
RESULTS = SCRIPTS / "results"
Script = Callable[..., Any]
SOURCES = ("medquad", "stackexchange")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Run a script as `python recipes/in_domain/NAME.py WORDS` would."""

    def run(name: str, *words: object) -> None:
        monkeypatch.syspath_prepend(str(SCRIPTS))
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")

    return run


@pytest.mark.parametrize(
    ("script", "table"),
    [
        ("report", "results.md"),
        ("report", "other_sources/results.md"),
        ("regret", "regret.md"),
        ("equal", "whole/equal.md"),
        ("models", "models.md"),
    ],
)
def test_committed_tables_are_drawn_of_committed_results(run: Script, script: str, table: str, tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    (tmp_path / "results" / table).unlink()
    run(script, (tmp_path / "results" / table).parent)
    assert (tmp_path / "results" / table).read_text() == (RESULTS / table).read_text()


@pytest.mark.parametrize(
    "table",
    [
        "models",
        "guides-16",
        "rules",
        "other_sources/rules",
        "whole/batch-16",
        "whole/batch-64",
        "whole/equal",
        "two_layers/batch-16",
        "two_layers_communities/batch-16",
        "two_layers_communities_masked/batch-16",
        "two_layers_communities_masked/batch-64",
        "two_layers_communities/batch-64",
        "two_layers_communities/batch-256",
        "whole_four_seeds/batch-16",
        "whole_four_seeds/batch-64",
        "whole_four_seeds/batch-256",
        "two_layers_more/batch-16",
        "two_layers_more/batch-64",
        "pretrained/batch-16",
    ],
)
def test_results_quote_committed_tables(table: str) -> None:
    assert (RESULTS / f"{table}.md").read_text() in (SCRIPTS.parent / "RESULTS.md").read_text()


@pytest.mark.parametrize("script", ["static", "keys", "guides", "apart", "longer", "layers", "full_length"])
def test_one_seed_is_refused_before_anything_is_read(
    run: Script, script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["nowhere", "--encoder", "none", "--output", tmp_path / "out", "--seeds", 1]
    with pytest.raises(SystemExit, match="2"):
        run(script, *words)
    assert "1: intervals need two seeds or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def choose_clusters(path: Path) -> None:
    """Say that clusters were chosen for one of the sources: `longer.py` has nothing to do for the others."""
    results = json.loads(path.read_text())
    results[SOURCES[0]]["batch_sizes"]["16"]["chosen"]["tuned"] = "clusters of 32"
    path.write_text(json.dumps(results))


@pytest.fixture
def common(tmp_path: Path, tiny_bert: Path) -> list[object]:
    """Words that all scripts take: pairs of two sources, an encoder, an output folder."""
    (tmp_path / "data").mkdir()
    for seed, source in enumerate(SOURCES):
        make_pairs(450, seed).to_parquet(str(tmp_path / "data" / f"{source}.parquet"))
    words = [tmp_path / "data", "--encoder", tiny_bert, "--cache_dir", tmp_path / "cache", "--sources", *SOURCES]
    return [*words, "--output", tmp_path / "results"]


@pytest.mark.slow
def test_scripts_of_static_models_run_one_after_another(run: Script, tmp_path: Path, common: list[object]) -> None:
    output = tmp_path / "results"
    run("static", *common, "--batch_sizes", 16, 64, "--seeds", 2)
    choose_clusters(output / "results.json")
    run("report", output)
    run("predictors", *common)
    run("keys", *common, "--seeds", 2)
    run("guides", *common, "--seeds", 2)
    run("apart", *common, "--seeds", 2, "--batch_sizes", 16)
    run("longer", *common, "--seeds", 2, "--tune_seconds", 9)
    run("rules", output / "runs", "--output", output)
    tables = {one.stem for one in output.glob("*.md")}
    assert tables == {"results", "predictors", "keys-16", "guides-16", "apart-16", "rules"}
    assert (output / "gain_by_time.png").exists() and (output / "ndcg_by_batch_size.png").exists()


@pytest.mark.slow
def test_scripts_of_transformers_run_one_after_another(
    run: Script, tmp_path: Path, tiny_bert: Path, common: list[object]
) -> None:
    output = tmp_path / "results"
    run("static", *common, "--batch_sizes", 16, "--seeds", 2)
    run("layers", *common, "--n_layers", 1, "--learning_rate", 1e-3, "--steps", 2, "--sizes", 96, 32)
    run("regret", output)
    layers = [*common[:-1], output / "layers"]
    run("full_length", *layers, "--model", tiny_bert, "--learning_rate", 1e-3, "--batch_sizes", 16)
    table = (output / "layers" / "batch-16.md").read_text()
    runs = set((output / "layers" / "runs").iterdir())
    rates = ["--rates", output / "layers" / "random.json"]
    run("full_length", *layers, "--model", tiny_bert, *rates, "--batch_sizes", 16)
    assert (output / "layers" / "batch-16.md").read_text() == table
    assert set((output / "layers" / "runs").iterdir()) == runs  # the rates of the first call, so nothing is run again
    more = ["--model", tiny_bert, *rates, "--batch_sizes", 16, "--communities", "--only", "communities*"]
    run("full_length", *common[:-1], output / "layers_more", *more)
    tried = json.loads((output / "layers_more" / "batch-16.json").read_text())["sources"][SOURCES[0]]["ways"]
    assert [*tried] == ["random", "communities of 32", "communities of 32, 8 rows of each"]
    run("equal", output / "layers")
    assert (output / "regret.md").exists() and (output / "layers" / "batch-16.md").exists()
    assert (output / "layers" / "equal.md").read_text().count("\n") == 2 + len(SOURCES)


@pytest.mark.slow
def test_pretraining_runs(run: Script, tmp_path: Path, common: list[object]) -> None:
    run("pretrain", common[0], "--output", tmp_path / "bert", "--steps", 1)
    assert SentenceTransformer(str(tmp_path / "bert")).encode("a text").shape == (256,)
