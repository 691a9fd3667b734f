"""Trials with the model that is to be trained, or one like it, by the stock trainer for an epoch or so."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import PrinterCallback

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.plan_messages import tell_of_batches
from st_cluster_batches.clusters.false_negatives import hash_keys
from st_cluster_batches.clusters.guide import GuideVectors
from st_cluster_batches.clusters.guide_index import RowKeys
from st_cluster_batches.clusters.vectors import Vectors
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS
from st_cluster_batches.evaluation.problem import Problem
from st_cluster_batches.evaluation.proxy import rank_documents
from st_cluster_batches.evaluation.start import Texts
from st_cluster_batches.losses.guided import GuidedMultipleNegativesRankingLoss
from st_cluster_batches.plans.labels import Labels
from st_cluster_batches.row_keys import ROW_KEY, certify_keys
from st_cluster_batches.training.models import QuietCardData, set_attention
from st_cluster_batches.training.run import build_trainer
from st_cluster_batches.training.trainer_arguments import TrainingArguments

if TYPE_CHECKING:
    from st_cluster_batches.clusters.choice import Candidate
    from st_cluster_batches.evaluation.tune_options import TuneOptions

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeldVectors(GuideVectors):
    """Vectors of a problem's pairs, which a guided loss finds by keys that count the rows.

    Args:
        sides: (n, d) unit rows of queries and of passages.
    """

    sides: Sequence[npt.NDArray[np.float16]]

    @staticmethod
    def make_keys(n_rows: int) -> npt.NDArray[np.int64]:
        """Return the keys of so many rows: a count from one, and the byte that certifies it."""
        return certify_keys(np.arange(1, n_rows + 1, dtype=np.uint64) << np.uint64(8))

    @property
    def encoder(self) -> str:
        """What messages call the guide; trials write no card."""
        return "tune"

    def check_rows(self, part: Dataset) -> None:
        """Nothing is to be checked: the keys count the very rows that the vectors are of."""

    def take(self, keys: RowKeys, n_columns: int) -> tuple[list[Vectors], npt.NDArray[np.bool_]]:
        """Return the vectors of some rows, as `GuideVectors` does; all are known."""
        rows = (keys >> 8) - 1
        return [one[rows].astype(np.float32) for one in self.sides[:n_columns]], np.ones(len(rows), dtype=bool)


def train_model(
    problem: Problem, labels: Labels, candidate: Candidate, rate: float, seed: int, options: TuneOptions
) -> tuple[Scores, Scores, dict[str, Any]]:
    """Train a copy of the model on cluster batches, and score it.

    Args:
        problem: A source, with texts.
        labels: The stratum of each pair.
        candidate: How batches are filled from the strata.
        rate: Learning rate, at its highest.
        seed: Seed of the trainer.
        options: Rows of a batch, epochs or steps, and whether to train in bfloat16.

    Returns:
        nDCG@10 of the queries that rates are chosen on, of those that candidates are compared on, and what the
        batches of an epoch are made of.
    """
    texts = _as_texts(problem.queries), _as_texts(problem.passages)
    columns = dict(zip(("query", "passage"), texts, strict=True))
    pairs = Dataset.from_dict({**columns, CLUSTER: labels.strata, FALSE_NEGATIVE_KEYS: hash_keys(texts)})
    if candidate.masked:
        pairs = pairs.add_column(ROW_KEY, HeldVectors.make_keys(len(pairs)))
    model = copy.deepcopy(problem.start.model)
    assert model is not None, "texts are for a model"
    model.model_card_data = QuietCardData()
    model.model_card_data.register_model(model)
    if not torch.accelerator.is_available():
        set_attention(model, "eager")
    loss: torch.nn.Module = MultipleNegativesRankingLoss(model)
    if candidate.masked:
        assert problem.guide is not None, "masks are tried where there are vectors to mask by"
        guide = HeldVectors((), problem.guide)
        loss = GuidedMultipleNegativesRankingLoss(model, guide=guide, margin=candidate.margin)
    with tempfile.TemporaryDirectory() as folder:
        arguments = _make_arguments(folder, candidate, rate, seed, options)
        trainer = build_trainer(model.train(), pairs, arguments, loss)
        trainer.remove_callback(PrinterCallback)
        with _silence_plans():
            trainer.train()
        counts = asdict(find_samplers(trainer.get_train_dataloader())[1][0].counts)
    model.eval()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=options.bf16):
        found = _embed(model.encode_document, problem.documents)
        asked = [_embed(model.encode_query, one.queries) for one in (problem.tuned_on, problem.measured_on)]
    tuned, measured = (
        rank_documents(vectors, found, one)
        for vectors, one in zip(asked, (problem.tuned_on, problem.measured_on), strict=True)
    )
    return tuned, measured, counts


def _make_arguments(
    folder: str, candidate: Candidate, rate: float, seed: int, options: TuneOptions
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        batch_sampler="cluster",
        rows_per_stratum=candidate.rows_per_stratum,
        per_device_train_batch_size=options.batch_size,
        max_steps=options.n_steps or -1,
        num_train_epochs=options.n_epochs or 1,
        learning_rate=rate,
        warmup_steps=0.1,
        bf16=options.bf16,
        use_cpu=not torch.accelerator.is_available(),  # else the host refuses bfloat16 there
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


@contextmanager
def _silence_plans() -> Iterator[None]:
    """Keep what the plan of each run says out of the log of a search of dozens of runs; warnings stay."""
    plans = logging.getLogger(tell_of_batches.__module__)
    level = plans.level
    plans.setLevel(logging.WARNING)
    try:
        yield
    finally:
        plans.setLevel(level)


def _as_texts(texts: Texts) -> list[str]:
    """Return texts that have not been tokenised."""
    if isinstance(texts, list):
        return texts
    raise TypeError("A trainer takes texts as they are, not tokenised for a static model")


def _embed(encode: Any, texts: Texts) -> torch.Tensor:
    vectors = encode(_as_texts(texts), convert_to_tensor=True, show_progress_bar=False)
    return torch.nn.functional.normalize(vectors.float()).cpu()
