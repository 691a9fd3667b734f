"""Source names are data: any characters, any length, all the way from rows to cards, figures and folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from examples import make_pairs

from st_cluster_batches.__main__ import main
from st_cluster_batches.data.naming import escape_cell, name_file, name_files

NAMES = ["a|b", "\n$x$ <b> `c` " + "long " * 100, "../e", "_hidden", "日本 ök", "x\\frac{", ""]


def make(n_rows: int = 140) -> Dataset:
    return make_pairs(n_rows, seed=78).add_column("source", (NAMES * n_rows)[:n_rows])


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_goes_through_labels_report_and_card(tmp_path: Path, saved_model: Path) -> None:
    make().to_parquet(str(tmp_path / "rows.parquet"))
    out = str(tmp_path / "out")
    words = ["attach", str(tmp_path / "rows.parquet"), out, "--encoder", str(saved_model), "--n_clusters", "2"]
    assert main([*words, "--cache_dir", str(tmp_path / "cache")]) == 0
    report = tmp_path / "report" / "report.html"
    inspected = ["inspect", out, "--encoder", str(saved_model), "--batch_size", "8", "--output", str(report)]
    assert main(inspected) == 0
    assert main(["build", out, "--output", str(tmp_path / "stage")]) == 0
    card = (tmp_path / "stage" / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("| ") and line.endswith(" |") and "20" in line]
    assert len(rows) == len(NAMES), "a row for each source"
    assert "| `query` | string | query |" in card and "| `passage` | string | positive |" in card


@pytest.mark.parametrize("name", ["medquad", "acl_anthology", "two words"])
def test_ordinary_names_are_left_as_they_are(name: str) -> None:
    assert escape_cell(name) == name == name_file(name)


def test_folders_of_other_names_are_safe_and_differ() -> None:
    folders = set(name_files([*NAMES, "..", "e", "a/b", "a?b"]).values())
    assert len(folders) == len(NAMES) + 4
    assert all(
        0 < len(one.encode()) < 200 and one not in (".", "..") and not set(one) & set("/\\\0") for one in folders
    )


def test_pairs_of_sources_with_any_name_are_held_out(workspace: Path) -> None:
    make().to_parquet(str(workspace / "pairs.parquet"))
    words = ["train", str(workspace / "recipe.yaml"), "--held_out_queries", "2", "--held_out_documents", "5"]
    assert main(words) == 0
    folders = [one.name for one in (workspace / "run" / "_held_out").iterdir()]
    assert sorted(folders) == sorted(name_files(NAMES).values())
