"""Which prompts of a model the texts of a task get: the hosts choose, and tell nobody."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from st_cluster_batches.evaluation.tasks import is_official
from st_cluster_batches.training.prompts import OF_SIDES

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder

logger = logging.getLogger(__name__)


def tell_prompts(model: SentenceTransformer | SparseEncoder, tasks: Sequence[Any]) -> None:
    """Log the prompts that texts of the tasks get; warn of others where queries or documents get none.

    Args:
        model: The model.
        tasks: What it is evaluated on.
    """
    found = {side: [_find_prompt(model, task, side) for task in tasks] for side in OF_SIDES}
    used = {name for names in found.values() for name in names}
    given = {name: prompt for name, prompt in model.prompts.items() if prompt}
    if prompts := {name: prompt for name, prompt in given.items() if name in used}:
        logger.info("Prompts in use: %s", prompts)
    bare = [side for side, names in found.items() if not given.keys() & {*names}]
    # A model that has prompts for both may well have others, for classification and the like.
    if bare and (idle := {name: prompt for name, prompt in given.items() if name not in used}):
        logger.warning(
            "No %s gets a prompt, and these prompts of the model are not in use: %s. If one is meant for it, name it "
            "so and save the model: model.prompts[%r] = ...",
            " and no ".join(bare),
            idle,
            bare[0],
        )


def _find_prompt(model: SentenceTransformer | SparseEncoder, task: Any, side: str) -> str | None:
    """Return the name of the prompt that a side gets: as mteb looks it up, else as `encode_query` and the like do."""
    # mteb drops names of tasks that it does not know.
    own = (*([task.metadata.name] if is_official(task) else []), task.metadata.type)
    names = [*(name for one in own for name in (f"{one}-{side}", one)), *OF_SIDES[side]]
    return next((name for name in names if name in model.prompts), model.default_prompt_name)
