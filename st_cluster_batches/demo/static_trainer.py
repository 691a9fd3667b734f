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
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

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
    _keep_gradients_sparse(model[0], trainer.optimizer)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _keep_gradients_sparse(module: StaticEmbedding, optimizer: torch.optim.Optimizer) -> None:
    """Have a step touch the tokens it reads alone, as the trials do.

    The trainer measures the norm of all gradients, which torch cannot do of sparse ones: they are out of its sight
    between the backward pass and the step.
    """
    module.embedding.sparse = True
    gradients: list[torch.Tensor] = []

    def hide(weights: torch.Tensor) -> None:
        assert weights.grad is not None, "torch calls this once there is a gradient"
        gradients.append(weights.grad)
        weights.grad = None

    def show(*_: Any) -> None:
        module.embedding.weight.grad = gradients.pop()

    module.embedding.weight.register_post_accumulate_grad_hook(hide)
    optimizer.register_step_pre_hook(show)
