from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from examples import make_pairs, make_static_model
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler
from st_cluster_batches.__main__ import main
from st_cluster_batches.batches.card_block import BEGIN, END, carry_block


def test_the_card_of_a_stock_trainer_tells_of_its_batches(tmp_path: Path, labelled: Dataset) -> None:
    trainer = make_trainer(tmp_path / "run", labelled, max_steps=3)
    trainer.train()
    shutil.rmtree(tmp_path / "run")  # the model may be saved elsewhere, later
    trainer.save_model(str(tmp_path / "model"))
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.text.count(BEGIN) == card.text.count(END) == 1
    assert "| rows of a batch share | `source`, `cluster` |" in card.text
    assert card.text.index(END) < card.text.index("## Training Details")
    assert "cluster-batches" in card.data.tags


def test_what_changes_between_epochs_is_not_told_as_if_it_held_for_all(workspace: Path) -> None:
    words = ["--max_steps", "45", "--batch_sampler", "random", "--refresh_every", "1", "--refresh_cluster_size", "20"]
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3\n", ""))
    assert main(["train", str(recipe), *words]) == 0
    text = (workspace / "run" / "model" / "README.md").read_text()
    assert "From epoch 1 on, counted from 0: batches were filled from **one cluster**" in text
    assert "| the first epoch | 15 global batches of 8 rows: 0 pure" in text and "| one epoch" not in text
    assert "| each epoch from epoch 1 on, of 20 rows on average by their `query` |" in text
    assert re.search(r"\| that took \| [\d.]+ s, 2 times \|", text)


@pytest.mark.parametrize(
    "words",
    [["--cluster_first", "1"], ["--batch_sampler", "random", "--refresh_every", "1", "--refresh_cluster_size", "20"]],
)
def test_what_a_run_does_not_reach_is_not_claimed(workspace: Path, words: list[str]) -> None:
    recipe = workspace / "recipe.yaml"
    if "--refresh_every" in words:
        recipe.write_text(recipe.read_text().replace("n_clusters: 3\n", ""))
    assert main(["train", str(recipe), "--max_steps", "5", *words]) == 0
    card = ModelCard.load(workspace / "run" / "model" / "README.md")
    assert "Batches are of **random rows**" in card.text and "| one epoch | 15 global batches" in card.text
    assert "From epoch" not in card.text and "made anew" not in card.text
    assert "cluster-batches" not in card.data.tags


def test_training_again_replaces_what_the_card_told(tmp_path: Path, labelled: Dataset) -> None:
    model = make_static_model()
    for sampler in (ClusterBatchSampler, ClusterBatchSampler.configure(strata=("source",))):
        trainer = make_trainer(tmp_path / "run", labelled, model=model, max_steps=3, batch_sampler=sampler)
        trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    text = (tmp_path / "model" / "README.md").read_text()
    assert text.count(BEGIN) == 1 and "| rows of a batch share | `source` |" in text


def test_braces_in_a_block_are_no_commands_of_the_template(tmp_path: Path) -> None:
    model = make_static_model()
    carry_block(model, ["prompts: {{ 1 + 1 }} {% if %}"])
    model.save(str(tmp_path))
    assert "{{ 1 + 1 }} {% if %}" in (tmp_path / "README.md").read_text()


def test_a_cache_that_is_read_only_costs_nothing(
    tmp_path: Path, labelled: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("st_cluster_batches.batches.card_block.default_cache_dir", lambda: tmp_path / "file")
    trainer = make_trainer(tmp_path / "run", labelled, max_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert BEGIN in (tmp_path / "model" / "README.md").read_text()
    assert "card will not say" not in caplog.text


def test_a_cache_without_room_costs_the_block_and_not_the_training(
    tmp_path: Path, labelled: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    for name in ("default_cache_dir", "_open_own_folder"):
        monkeypatch.setattr(f"st_cluster_batches.batches.card_block.{name}", lambda: tmp_path / "file")
    trainer = make_trainer(tmp_path / "run", labelled, max_steps=3)
    trainer.train()
    assert "card will not say how its batches were filled" in caplog.text
    trainer.save_model(str(tmp_path / "model"))
    assert BEGIN not in (tmp_path / "model" / "README.md").read_text()


# Two runs of a script with nothing of ours but the two lines, and one of our own command.
SCRIPT = """
import sys
from datasets import load_dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from st_cluster_batches import ClusterBatchSampler, attach_clusters
from st_cluster_batches.__main__ import main
folder = sys.argv[1]
pairs = load_dataset("parquet", data_files=f"{folder}/pairs.parquet", split="train")
pairs = attach_clusters(pairs, f"{folder}/encoder", n_clusters=3)
for strategy in ("end", "all_checkpoints"):
    model = SentenceTransformer(f"{folder}/encoder")
    args = SentenceTransformerTrainingArguments(
        f"{folder}/{strategy}", per_device_train_batch_size=8, max_steps=8, save_steps=4, use_cpu=True,
        report_to="none", batch_sampler=ClusterBatchSampler, push_to_hub=True, hub_strategy=strategy,
        hub_always_push=True,
    )
    trainer = SentenceTransformerTrainer(model, args, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model))
    trainer.train()
    trainer.push_to_hub()
for anew in ([], ["--resume_from_checkpoint", "false"]):
    assert main(["train", f"{folder}/recipe.yaml", "--push_to_hub", "true", "--hub_model_id", "alice/own", *anew]) == 0
"""


@pytest.mark.slow
def test_training_time_pushes_carry_the_block_and_no_training_texts(tmp_path: Path) -> None:
    make_static_model().save(str(tmp_path / "encoder"))
    make_pairs(120).to_parquet(str(tmp_path / "pairs.parquet"))
    (tmp_path / "recipe.yaml").write_text(
        f"train_data: [pairs.parquet]\ndata_dir: {tmp_path}\nmodel_name_or_path: {tmp_path / 'encoder'}\n"
        f"held_out_queries: 10\nn_clusters: 3\nper_device_train_batch_size: 8\nmax_steps: 8\nsave_steps: 4\n"
        f"use_cpu: true\ndisable_tqdm: true\noutput_dir: {tmp_path / 'own'}\ncache_dir: {tmp_path / 'cache'}\n"
    )
    with LoopbackHub() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, check=True, timeout=300)
        pushed = {name: repository.find("main")[1] for (_, name), repository in hub.repositories.items()}
    assert set(pushed) == {"alice/end", "alice/all_checkpoints", "alice/own"}
    for name, files in pushed.items():
        card = files["README.md"].decode()
        assert card.count(BEGIN) == 1 and "cluster-batches" in card, name
        assert "model.safetensors" in files and "modules.json" in files, name
    assert any(path.startswith("checkpoint-8/") for path in pushed["alice/all_checkpoints"])
    own = pushed["alice/own"]
    assert not [path for path in own if path.startswith(("model/", "_", "held_out", "recipe"))]
    assert "n_clusters: 3" in own["README.md"].decode(), "our command's card holds the recipe"
    assert str(tmp_path) not in own["README.md"].decode()
