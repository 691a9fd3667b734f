from __future__ import annotations

from pathlib import Path

import pytest
from datasets import DatasetDict
from examples import make_pairs, make_static_model
from trainers import record_texts

from st_cluster_batches.training.run import build_trainer
from st_cluster_batches.training.trainer_arguments import TrainingArguments


@pytest.mark.parametrize("strategy", ["random", "stock"])
def test_random_batches_show_no_label_of_any_dataset(tmp_path: Path, strategy: str) -> None:
    pairs = DatasetDict(
        {
            "a": make_pairs(40),
            "b": make_pairs(40, 1).add_column("source", ["web"] * 40).add_column("cluster", [1] * 40),
        }
    )
    arguments = TrainingArguments(
        str(tmp_path),
        batch_sampler=strategy,
        per_device_train_batch_size=8,
        max_steps=4,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = build_trainer(make_static_model(), pairs, arguments)
    seen = record_texts(trainer)
    trainer.train()
    assert {tuple(name for name in row if name != "dataset_name") for batch in seen for row in batch} == {
        ("query", "passage")
    }
