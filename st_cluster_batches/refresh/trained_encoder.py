"""The model that is being trained, as an encoder of its own training texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SparseEncoder

from st_cluster_batches.clusters.encoder import Encoder, check_encoder, choose_batch_size
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.data.pairs import Side
from st_cluster_batches.storage.cache import hash_values

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPARSE_DIMENSIONS = 512  # of a projection, which keeps similarities (Johnson and Lindenstrauss)
_SPARSE_BATCH = 64  # as dense rows of a vocabulary's length


@dataclass(frozen=True)
class TrainedColumn:
    """How the stock collator makes a column ready for the model.

    Args:
        prompt: What it puts before the texts.
        task: The route that a Router sends them by; None for its default, and for all other models.
        max_length: Tokens that it reads of a text, if not as many as the model itself.
    """

    prompt: str = ""
    task: str | None = None
    max_length: int | None = None

    @classmethod
    def of(cls, args: Any, name: str | None, column: str) -> TrainedColumn:
        """Read the arguments of a trainer.

        Args:
            args: The arguments. Prompts are of all columns, by column, by dataset, or by dataset and column, a
                `router_mapping` by column, or by dataset and column, and a `max_length` of all, or by task.
            name: The name of the dataset, if it has one.
            column: The column.
        """
        mapping: Any = args.router_mapping or {}
        if isinstance(next(iter(mapping.values()), None), dict):
            mapping = mapping.get(name, {})
        task, length = mapping.get(column), getattr(args, "max_length", None)
        if isinstance(length, dict):
            length = length.get(task)
        return cls(find_prompt(args.prompts, name, column), task, length)


@dataclass(frozen=True)
class TrainedEncoder(Encoder):
    """Embeds as training does: with its prompts, routes, maximal length and precision, and leaves no trace.

    Args:
        columns: How training reads the texts, by side.
        accelerator: The trainer's, for its precision.
    """

    columns: Mapping[Side, TrainedColumn] = field(default_factory=dict)
    accelerator: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.given, SparseEncoder):
            check_encoder(self.given)

    @cached_property
    def model(self) -> Any:
        """The model, in the mode that it is in."""
        return self.given

    @cached_property
    def fingerprint(self) -> str:
        """Hash of its weights as they are now, and of how texts are embedded."""
        return hash_values(
            fingerprint_model(self.model),
            sorted((side, astuple(one)) for side, one in self.columns.items()),
            self.accelerator.mixed_precision,
        )

    def _encode(self, side: Side, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        model, column = self.model, self.columns[side]
        is_sparse = isinstance(model, SparseEncoder)
        size = self.batch_size or (_SPARSE_BATCH if is_sparse else choose_batch_size(model))
        options = {"convert_to_sparse_tensor": False} if is_sparse else {}
        with _untouched(model, column.max_length), self.accelerator.autocast():
            steps = range(0, len(texts), _SPARSE_BATCH) if is_sparse else [0]
            parts = []
            for low in steps:
                part = texts[low : low + _SPARSE_BATCH] if is_sparse else texts
                # Not `encode_query`, which would choose a route that training may not take.
                vectors = model.encode(
                    list(part),
                    prompt=column.prompt,
                    task=column.task,
                    batch_size=size,
                    show_progress_bar=False,
                    convert_to_tensor=True,
                    **options,
                )
                parts.append((vectors.float() @ self._projection if is_sparse else vectors.float()).cpu().numpy())
        embedded: npt.NDArray[np.float32] = np.concatenate(parts)
        return embedded

    @cached_property
    def _projection(self) -> torch.Tensor:
        """Random signs that take a vocabulary to few dimensions."""
        shape = (self.model.get_embedding_dimension(), _SPARSE_DIMENSIONS)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.float32) * 2 - 1
        projection: torch.Tensor = (signs / _SPARSE_DIMENSIONS**0.5).to(self.model.device)
        return projection


def find_prompt(prompts: Any, name: str | None, column: str) -> str:
    """Return the prompt that the stock collator puts before a column.

    Args:
        prompts: The trainer's argument: of all, by column, by dataset, or by dataset and column.
        name: The name of the dataset, if it has one.
        column: The column.
    """
    if isinstance(prompts, dict):
        prompts = prompts.get(name, prompts)
    found = prompts.get(column, "") if isinstance(prompts, dict) else prompts
    return found if isinstance(found, str) else ""


@contextmanager
def _untouched(model: Any, max_length: int | None) -> Iterator[None]:
    """Give a model back as it was: its modes, its maximal length, and the random states of its devices."""
    modes = [(module, module.training) for module in model.modules()]
    length = model.max_seq_length
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            if max_length is not None:
                model.max_seq_length = max_length
            yield
    finally:
        if max_length is not None:
            model.max_seq_length = length
        for module, mode in modes:
            module.training = mode
