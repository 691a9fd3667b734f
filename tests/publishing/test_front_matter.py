from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from st_cluster_batches.__main__ import main
from st_cluster_batches.publishing.front_matter import check_front_matter
from st_cluster_batches.publishing.licences import find_identifier


@pytest.mark.parametrize(
    ("written", "identifier"),
    [
        ("MIT License", "mit"),
        ("The MIT Licence", "mit"),
        ("mit", "mit"),
        ("Apache License 2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("Apache 2", "apache-2.0"),
        ("Apache-2.0", "apache-2.0"),
        ("BSD 3-Clause", "bsd-3-clause"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "cc-by-sa-4.0"),
        ("CC0", "cc0-1.0"),
        ("CC0 1.0 Universal", "cc0-1.0"),
        ("GPLv3", "gpl-3.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("GNU General Public License v3.0", "gpl-3.0"),
        ("AGPL-3.0-only", "agpl-3.0"),
        ("Mozilla Public License 2.0", "mpl-2.0"),
        ("The Unlicense", "unlicense"),
        ("llama3.1", "llama3.1"),
    ],
)
def test_licences_as_people_write_them_become_identifiers(written: str, identifier: str) -> None:
    assert find_identifier(written) == identifier


def test_an_unknown_licence_is_named_before_the_push(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", str(trained), "--output", f"{trained.parent}/staged", "--license"]
    assert main([*words, "Do what I say"]) == 2
    assert "knows no licence 'Do what I say'. Give an identifier of" in capsys.readouterr().err
    assert main([*words, "MIT License"]) == 0
    assert "\nlicense: mit\n" in (trained.parent / "staged" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("licence", ["brand-new-1.0", "[mit, brand-new-1.0]", "MIT License"])
def test_what_a_card_says_of_its_licence_stays(trained: Path, licence: str) -> None:
    (trained / "model" / "README.md").write_text(f"---\nlicense: {licence}\n---\n\n# Mine\n", encoding="utf-8")
    assert main(["build", str(trained), "--output", f"{trained.parent}/staged"]) == 0
    card = ModelCard.load(trained.parent / "staged" / "README.md")
    assert card.data.license == yaml.safe_load(licence)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("license: mit\n\ttags: [a]", "README.md, line 3: the front matter is no YAML"),
        ("tags: [a]\nlicense: a: b: c", "README.md, line 3: the front matter is no YAML"),
        ("- a\n- b", "README.md, line 2: the front matter must hold"),
    ],
)
def test_broken_front_matter_is_one_sentence_with_the_line(
    trained: Path, capsys: pytest.CaptureFixture[str], broken: str, message: str
) -> None:
    (trained / "model" / "README.md").write_text(f"---\n{broken}\n---\n\n# Mine\n", encoding="utf-8")
    assert main(["build", str(trained), "--output", f"{trained.parent}/staged"]) == 2
    assert message in capsys.readouterr().err


def test_front_matter_that_is_none_or_empty_is_fine() -> None:
    for text in ("# A title\n", "---\n\n---\n# A title\n", "\ufeff---\r\nlicense: mit\r\n---\r\n"):
        check_front_matter(text, "README.md")
