"""The stock trainer for static models, with the optimizer of the trials that chose its batches and its rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PrinterCallback

from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.training.models import build_static_model
from st_cluster_batches.training.run import build_trainer
from st_cluster_batches.training.trainer_arguments import Strategy, TrainingArguments

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer

BATCH_SIZE = 16


def build_static_trainer(
    start: Start,
    labelled: Dataset,
    strategy: Strategy,
    rows_per_stratum: int | None,
    rate: float,
    seed: int,
    folder: Path,
) -> SentenceTransformerTrainer:
    """Build a stock trainer of token embeddings, with the optimizer of the trials.

    So their learning rates hold, which are in root mean squares of the embeddings.
    """
    assert start.weights is not None, "trials train static models"
    rate *= float(np.sqrt(np.square(start.weights).mean()))
    arguments = TrainingArguments(
        str(folder),
        batch_sampler=strategy,
        rows_per_stratum=rows_per_stratum,
        seed=seed,
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=1,
        learning_rate=rate,
        warmup_steps=0.1,
        max_grad_norm=0.0,  # nor do the trials clip
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    model = build_static_model(start.tokenizer, start.weights)
    # A copy, since the sampler hides the label columns of the dataset it is given.
    trainer = build_trainer(model, labelled.with_format(None), arguments)
    trainer.optimizer = torch.optim.SparseAdam(list(trainer.model.parameters()), lr=rate)
    trainer.optimizer.register_step_pre_hook(_rest_unread_tokens)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rest_unread_tokens(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Make gradients sparse, for Adam moves on whatever has ever had one; the trainer measures none but dense ones."""
    for group in optimizer.param_groups:
        for weights in group["params"]:
            rows = weights.grad.any(dim=1).nonzero()[:, 0]
            # `nonzero` gives each row once; torch warns where it is not told whether to check that.
            weights.grad = torch.sparse_coo_tensor(
                rows[None], weights.grad[rows], weights.grad.shape, check_invariants=False
            )
