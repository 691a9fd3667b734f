"""Let the cards that a trainer writes, and pushes, say how the batches were filled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from st_cluster_batches.publishing.card import BEGIN, END, insert_block, render_block
from st_cluster_batches.publishing.contents import Evidence
from st_cluster_batches.publishing.front_matter import TAG
from st_cluster_batches.storage.cache import default_cache_dir, hash_values, write_atomically

logger = logging.getLogger(__name__)


def carry_block(model: Any, evidence: Evidence) -> None:
    """Put our block into every card that a model writes from now on.

    Stock cards say nothing of a batch sampler that is a class, and a trainer makes a new card at each push. So the
    block goes into a copy of the template that the model's cards are made from. The copy lies in the cache: an output
    folder may be gone before the model is saved for the last time.

    Args:
        model: A model of sentence-transformers, of any kind.
        evidence: What the block says; a later call replaces it.
    """
    data = model.model_card_data
    # Else a brace in a name would be taken for a command of the template.
    block = render_block(evidence).replace(BEGIN, f"{BEGIN}{{% raw %}}").replace(END, f"{{% endraw %}}{END}")
    template = insert_block(Path(data.template_path).read_text(encoding="utf-8"), block)
    path = default_cache_dir() / "cards" / f"{hash_values(template)}.md"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, template)
    except OSError as error:
        logger.warning("The model's card will not say how its batches were filled: %s", error)
        return
    data.template_path = path
    if evidence.strategy != "random":
        data.add_tags(TAG)
