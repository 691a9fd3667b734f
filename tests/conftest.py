"""Keep every test away from the network and from the developer's own caches."""

from __future__ import annotations

import os
import tempfile

# Read by the Hugging Face libraries when they are imported, so before anything else.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_DISABLED"] = "true"

from pathlib import Path

import pytest
from datasets import Dataset
from examples import label_pairs, make_pairs, make_static_model, make_tiny_bert
from sentence_transformers import SentenceTransformer

from st_cluster_batches.__main__ import main
from st_cluster_batches.data.collection import Collection


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a cache of its own: else one test finds the vectors of another."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"])))


@pytest.fixture
def static_model() -> SentenceTransformer:
    return make_static_model()


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    path = tmp_path / "encoder"
    make_static_model().save(str(path))
    return path


@pytest.fixture
def pairs() -> Dataset:
    return make_pairs(300)


@pytest.fixture
def labelled() -> Dataset:
    return label_pairs(make_pairs(300))


@pytest.fixture
def tiny_bert(tmp_path: Path) -> Path:
    return make_tiny_bert(tmp_path / "tiny-bert")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with pairs, a collection held out of them, an encoder, and a recipe that trains it in `run`."""
    make_static_model().save(str(tmp_path / "encoder"))
    make_pairs(120).to_parquet(str(tmp_path / "pairs.parquet"))
    held_out = make_pairs(20, seed=9)
    Collection(
        {f"q{at}": text for at, text in enumerate(held_out["query"])},
        {f"d{at}": ("", text) for at, text in enumerate(held_out["passage"])},
        {f"q{at}": {f"d{at}": 1} for at in range(20)},
    ).write(tmp_path / "held_out")
    (tmp_path / "recipe.yaml").write_text(
        f"train_data: [pairs.parquet]\ndata_dir: {tmp_path}\nmodel_name_or_path: {tmp_path / 'encoder'}\n"
        f"eval_tasks: [held_out]\nn_clusters: 3\nper_device_train_batch_size: 8\nmax_steps: 8\nsave_steps: 4\n"
        f"use_cpu: true\ndisable_tqdm: true\noutput_dir: {tmp_path / 'run'}\ncache_dir: {tmp_path / 'cache'}\n"
    )
    return tmp_path


@pytest.fixture
def trained(workspace: Path) -> Path:
    """What `train` leaves of a small run, with everything that must not be published beside it."""
    assert main(["train", str(workspace / "recipe.yaml")]) == 0
    return workspace / "run"
