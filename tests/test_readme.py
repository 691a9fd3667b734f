"""README is run, not only read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from examples import make_pairs
from mktestdocs import grab_code_blocks

from st_cluster_batches.parsing import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_in_order(tmp_path: Path, tiny_bert: Path, saved_model: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    make_pairs(400).to_parquet(tmp_path / "pairs" / "train.parquet")
    # Small local things in place of what a reader would download.
    stand_ins = {
        "sentence-transformers/natural-questions": str(tmp_path / "pairs"),
        "sentence-transformers/all-MiniLM-L6-v2": str(saved_model),
        "static:": "",
        "microsoft/mpnet-base": str(tiny_bert),
    }
    code = "\n".join(grab_code_blocks(README, lang="python"))
    for name, stand_in in stand_ins.items():
        assert name in code, f"README no longer mentions {name}"
        code = code.replace(name, stand_in)
    assert "attach_clusters(" in code and "batch_sampler=ClusterBatchSampler" in code
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["train"], Dataset)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^st-cluster-batches (\w+)", README, flags=re.M))))
def test_commands_of_readme_exist(command: str) -> None:
    actions = [action for action in build_parser()._actions if action.dest == "command"]
    assert command in actions[0].choices


def test_files_that_readme_names_exist() -> None:
    named = re.findall(r"\b(?:recipes|tests|hub_cards|st_cluster_batches)/[\w./-]*\w", README)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    subprocess.run([sys.executable, str(path), "--help"], check=True, capture_output=True, env=environment)
