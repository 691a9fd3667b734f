from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from st_cluster_batches.data.naming import escape_cell, name_file, name_files, name_splits, quote_code, show_line

STRANGE = [
    "microsoft/docs",
    "../../up",
    "/etc/passwd",
    "con",
    "NUL.txt",
    "x" * 300,
    "x" * 299 + "y",
    "..",
    ".",
    "",
    " ",
    "a|b",
    "a\nb",
    "源",
    "où",
    "-rf",
    "a.",
    "C:\\up",
]


@pytest.mark.parametrize("name", ["SciFact", "MTEB(eng, v2)", "held_out", "v1.5", "CQADupstack-NL"])
def test_ordinary_names_stay(name: str) -> None:
    assert name_file(name) == name


def test_strange_names_get_safe_and_distinct_files(tmp_path: Path) -> None:
    files = name_files(STRANGE)
    assert len({file.casefold() for file in files.values()}) == len(STRANGE)
    for file in files.values():
        assert len(file) < 100 and file.isascii() and file.partition(".")[0].lower() not in ("con", "nul")
        (tmp_path / file).touch()
    assert len(list(tmp_path.iterdir())) == len(STRANGE)


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    assert len({file.casefold() for file in name_files(["Docs", "docs", "DOCS"]).values()}) == 3


def test_splits_keep_names_that_they_can_have_and_get_distinct_words_for_others() -> None:
    names = ["a-b", "a b", "a_b", "维基", "all", "Docs", "docs", "../../up", "", "x" * 300, "v1.2"]
    splits = name_splits(names)
    assert [splits[name] for name in ("a_b", "维基", "Docs", "v1.2")] == ["a_b", "维基", "Docs", "v1.2"]
    assert len({split.casefold() for split in splits.values()}) == len(names)
    assert all(re.fullmatch(r"\w+(\.\w+)*", one) and one != "all" and len(one) <= 80 for one in splits.values())


@pytest.mark.parametrize("name", ["a|b", "a\nb", "`a`|", "<img src=x onerror=y>", "<!-- ", "[a](b)", "**a**", "a\\|b"])
def test_a_cell_shows_the_name_and_breaks_no_table(name: str) -> None:
    table = f"| name | rows |\n| --- | --- |\n| {escape_cell(name)} | 7 |\n\nafter\n"
    html = MarkdownIt("js-default", {"html": True}).render(table)
    assert html.count("<td>") == 2 and "<img" not in html and "<a" not in html and "<strong>" not in html
    table = f"| name | rows |\n| --- | --- |\n| {quote_code(name)} | 7 |\n"
    html = MarkdownIt("js-default", {"html": True}).render(table)
    assert html.count("<td>") == 2 and html.count("<code>") == 1 and "<img" not in html


def test_a_line_is_one_line_and_moves_no_cursor() -> None:
    shown = show_line("a\nb\x1b[2Jc\r" + "d" * 99, 30)
    assert len(shown) == 30 and len(io.StringIO(shown).readlines()) == 1 and "\x1b" not in shown
