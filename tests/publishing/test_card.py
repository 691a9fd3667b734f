from __future__ import annotations

import socket
from pathlib import Path

import pytest
from builds import build, read_files
from examples import make_pairs
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer

from st_cluster_batches.__main__ import main


def test_a_build_tells_how_the_model_was_trained_and_how_good_it_is(trained: Path) -> None:
    stage = build(trained, "--license", "mit")
    card = ModelCard.load(stage / "README.md")
    assert card.data.library_name == "sentence-transformers" and "cluster-batches" in card.data.tags
    assert card.data.license == "mit"
    assert card.data.to_dict()["model-index"], "scores are in the front matter"
    for told in ("held_out", "n_clusters", "pure", "false_negative_keys"):
        assert told in card.text
    SentenceTransformer(str(stage)).encode(["soup"])


def test_no_state_no_place_and_no_training_row_is_published(trained: Path) -> None:
    files = read_files(build(trained))
    assert not [name for name in files if "checkpoint" in name or "optimizer" in name or "training_args" in name]
    texts = {name: content.decode() for name, content in files.items() if name.endswith((".md", ".json", ".yaml"))}
    rows = make_pairs(120)
    for name, text in texts.items():
        assert str(trained.parent) not in text, name
        assert not [one for one in (*rows["query"][:], *rows["passage"][:]) if one in text], name


def test_the_same_inputs_give_the_same_bytes_and_what_a_person_wrote_stays(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = build(trained)
    first = read_files(stage)
    assert read_files(build(trained)) == first
    readme = stage / "README.md"
    readme.write_text(readme.read_text() + "\nWritten by hand.\n")
    assert "its text stays" not in caplog.text
    assert "Written by hand." in (build(trained) / "README.md").read_text()
    assert "its text stays" in caplog.text
    assert (build(trained) / "README.md").read_text().count("st-cluster-batches:begin") == 1


def test_a_build_asks_the_network_for_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a request")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    build(trained)


def test_a_secret_in_a_file_is_refused_by_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = trained / "model" / "README.md"
    readme.write_text(readme.read_text() + "\nhf_" + "a" * 34 + "\n")
    assert main(["build", str(trained), "--output", str(trained.parent / "stage")]) == 2
    assert "README.md" in capsys.readouterr().err
    assert not (trained.parent / "stage").exists()
