"""Stock trainers with our sampler, and what their collator receives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples import make_static_model
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_cluster_batches import ClusterBatchSampler


def make_trainer(
    tmp_path: Path, train: Any, *, model: SentenceTransformer | None = None, loss: Any = None, **options: Any
) -> SentenceTransformerTrainer:
    model = model or make_static_model()
    trainer_options = {key: options.pop(key) for key in ("eval_dataset", "data_collator") if key in options}
    arguments = {
        "per_device_train_batch_size": 16,
        "num_train_epochs": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "batch_sampler": ClusterBatchSampler,
        **options,
    }
    return SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(str(tmp_path / "out"), **arguments),
        train_dataset=train,
        loss=loss(model) if isinstance(loss, type) else loss or MultipleNegativesRankingLoss(model),
        **trainer_options,
    )


def record_texts(trainer: SentenceTransformerTrainer) -> list[list[dict[str, Any]]]:
    """Record the rows that reach the collator, batch by batch."""
    seen: list[list[dict[str, Any]]] = []
    collate = trainer.data_collator

    class Recorder:
        valid_label_columns = collate.valid_label_columns

        def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
            seen.append(rows)
            result: dict[str, Any] = collate(rows)
            return result

    trainer.data_collator = Recorder()
    return seen
