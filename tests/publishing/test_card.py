from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from builds import build, read_files
from datasets import Dataset
from examples import make_pairs
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from trainers import make_trainer

from st_cluster_batches.__main__ import main
from st_cluster_batches.batches.card_block import remove_block
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER
from st_cluster_batches.publishing.staging import is_staged


def test_a_build_tells_how_the_model_was_trained_and_how_good_it_is(trained: Path) -> None:
    stage = build(trained, "--license", "mit")
    card = ModelCard.load(stage / "README.md")
    assert card.data.library_name == "sentence-transformers" and "cluster-batches" in card.data.tags
    assert card.data.license == "mit"
    assert card.data.to_dict()["model-index"], "scores are in the front matter"
    for told in ("held_out", "n_clusters", "pure", "false_negative_keys"):
        assert told in card.text
    SentenceTransformer(str(stage)).encode(["soup"])


def test_scores_of_pairs_held_out_of_the_training_data_are_called_so(trained: Path) -> None:
    told = "held out with all that repeats them"
    assert told not in (build(trained) / "README.md").read_text()
    (trained / HELD_OUT_FOLDER / "held_out").mkdir(parents=True)  # as held_out_queries leaves it
    card = ModelCard.load(build(trained) / "README.md")
    assert told in card.text and r"| held_out \* |" in card.text
    (result,) = card.data.eval_results
    assert result.dataset_name == "held_out (held out of the training data)"


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


@pytest.mark.parametrize("sampler", ["cluster", "stock"])
def test_the_card_of_a_guided_run_tells_of_its_guide_and_lists_no_row_keys(workspace: Path, sampler: str) -> None:
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text() + f"loss: guided\nbatch_sampler: {sampler}\n")
    assert main(["train", str(recipe)]) == 0
    cards = [(one / "README.md").read_text() for one in (workspace / "run" / "model", build(workspace / "run"))]
    assert all(text.count("The guide, `encoder`, masked") == 1 for text in cards)
    (statistics,) = re.findall(r"(?m)^\* Approximate statistics.*\n((?:  \|.*\n)+)", cards[1])
    assert "label" not in statistics and "passage" in statistics
    assert "<code>label</code>" not in cards[0] or sampler == "stock"


def test_a_training_without_a_recipe_keeps_what_its_card_tells(tmp_path: Path, labelled: Dataset) -> None:
    trainer = make_trainer(tmp_path / "run", labelled, max_steps=3)
    trainer.train()
    trainer.model.save(str(tmp_path / "final"))
    for _ in range(2):
        text = (build(tmp_path / "final") / "README.md").read_text()
        assert text.count("| rows of a batch share | `source`, `cluster` |") == 1 and "around: " in text


def test_a_changed_model_of_a_published_one_has_none_of_its_scores(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage, changed = build(trained), trained.parent / "changed" / "model"
    assert is_staged(stage)
    model = SentenceTransformer(str(stage), device="cpu")
    model[0].embedding.weight.data *= -1
    model.save(str(changed))
    assert not is_staged(changed)
    card = ModelCard.load(changed / "README.md")
    assert "of this very model" in card.text and "model-index" in card.data.to_dict()  # as the host library keeps it
    assert "built before" not in caplog.text
    assert main(["build", str(changed), "--output", str(trained.parent / "again")]) == 0
    assert "one that was built before, perhaps for other weights" in caplog.text
    card = ModelCard.load(trained.parent / "again" / "README.md")
    assert "of this very model" not in card.text and "model-index" not in card.data.to_dict()


def test_a_card_that_was_taken_over_stays_as_it_is(trained: Path) -> None:
    card = build(trained) / "README.md"
    taken = card.read_text().replace("# SentenceTransformer", "# My own title\n\nText.", 1)
    card.write_text(taken)
    assert remove_block((build(trained) / "README.md").read_text()) == remove_block(taken)
