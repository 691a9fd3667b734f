"""Sources, prompts and texts of any language and kind, from the file to the card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from examples import TOPICS, make_pairs
from markdown_it import MarkdownIt
from sentence_transformers import SentenceTransformer

from st_cluster_batches.__main__ import main

SOURCES = ["microsoft/docs", "../../up", "/etc/passwd", "con", "x" * 300, "Docs", "docs", "a|b\n`c`<b>", "cost $1 $2"]


def write_pairs(path: Path, sources: list[str], rows: int = 40) -> None:
    pairs = make_pairs(rows * len(sources))
    Dataset.from_dict({**pairs.to_dict(), "source": [source for source in sources for _ in range(rows)]}).to_parquet(
        str(path)
    )


def list_paths(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_no_name_leads_out_of_the_output_folder(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(workspace / "pairs.parquet", SOURCES)
    outer = list_paths(workspace.parent)
    words = ["--held_out_queries", "3", "--held_out_documents", "20", "--max_steps", "2"]
    assert main(["train", f"{workspace}/recipe.yaml", *words]) == 0
    out = capsys.readouterr().out
    assert "a|b\\n`c`<b>" in out
    run = workspace / "run"
    assert {path.parts[0] for path in map(Path, list_paths(workspace.parent) - outer)} == {workspace.name}
    assert len(list((run / "_held_out").iterdir())) == len(SOURCES)
    summary = json.loads((run / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == set(SOURCES)
    assert len(list((run / "evaluation" / "per_query").iterdir())) == len(SOURCES)
    assert main(["build", str(run), "--output", f"{workspace}/staged"]) == 0
    assert {Path(path).parts[0] for path in list_paths(workspace)} <= {
        "cache", "encoder", "held_out", "pairs.parquet", "recipe.yaml", "run", "staged"
    }  # fmt: skip
    card = (workspace / "staged" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    html = MarkdownIt("js-default", {"html": True}).render(card)
    assert html.count("<td>a|b\\n`c`&lt;b&gt;</td>") == 1, "in the table of clusters"
    assert html.count("<td>a|b\\n`c`&lt;b&gt; *</td>") == 1, "in that of scores, which are of held-out pairs"
    assert "<b>" not in html


@pytest.mark.slow
def test_every_file_is_utf_8_whatever_the_locale(workspace: Path) -> None:
    sources = ["维基百科", "Forum français"]
    write_pairs(workspace / "pairs.parquet", sources)
    rows = [
        {"query": f"où est {' '.join(words)} {at}", "passage": f"这是 {words[at % 5]} {at}", "source": source}
        for source in sources
        for at, words in enumerate(list(TOPICS.values()) * 10)
    ]
    (workspace / "pairs.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    model = SentenceTransformer(str(workspace / "encoder"))
    model.prompts = {"query": "requête : ", "document": "段落 "}
    model.save(str(workspace / "encoder"))
    place = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "st_cluster_batches", *words], capture_output=True, env=place)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    run(
        "attach", f"{workspace}/pairs.jsonl", f"{workspace}/out", "--encoder", f"{workspace}/encoder", "--n_clusters=2"
    )
    words = ["--train_data", "pairs.jsonl", "--held_out_queries", "3", "--held_out_documents", "9", "--max_steps", "2"]
    run("train", f"{workspace}/recipe.yaml", *words, "--run_name", "é")
    run("build", f"{workspace}/run", "--output", f"{workspace}/staged")
    held_out = sorted(str(path) for path in (workspace / "run" / "_held_out").iterdir())
    printed = run("evaluate", f"{workspace}/run/model", "--tasks", *held_out, "--output", f"{workspace}/s", "--json")
    assert set(json.loads(printed)) == set(sources)
    card = (workspace / "staged" / "README.md").read_text(encoding="utf-8")
    assert all(source in card for source in sources)
    manifest = json.loads((workspace / "out" / "clustering.json").read_text(encoding="utf-8"))
    assert manifest["prompts"]["document"] == "段落 " and set(manifest["statistics"]) == set(sources)
