"""The block between markers that says in a model's card how its batches were filled."""

from __future__ import annotations

import atexit
import logging
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from st_cluster_batches.plans.plan_counts import PlanCounts
from st_cluster_batches.storage.cache import default_cache_dir, hash_values, write_atomically

logger = logging.getLogger(__name__)

BEGIN, END = "<!-- st-cluster-batches:begin -->", "<!-- st-cluster-batches:end -->"
PAPER = "https://arxiv.org/abs/2407.18887"
TAG = "cluster-batches"
PLAN_FILE = "batch_plan.json"  # beside the checkpoints: the plans that a block describes

_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}\n*", re.DOTALL)
_STRATEGIES = {
    "cluster": "Batches were filled from **one cluster** of one source, so that in-batch negatives are hard; what was "
    "left over is packed with its neighbours, as counted below.",
    "clusters": "Batches were filled from **several clusters** of one source, so that some negatives are hard; "
    "what was left over is packed with its neighbours, as counted below.",
    "source": "Batches were filled from **one source**; what was left over is mixed, as counted below.",
    "random": "Batches are of **random rows**: the baseline, not cluster batches.",
    "stock": "Batches are of rows in the trainer's **own random order**, not cluster batches.",
}


def carry_block(model: Any, lines: Sequence[str], tags: Sequence[str] = (TAG,)) -> None:
    """Put a block into every card that a model writes from now on.

    Stock cards say nothing of a batch sampler that is a class, and a trainer makes a new card at each push. So the
    block goes into a copy of the template that the model's cards are made from. The copy lies in the cache: an output
    folder may be gone before the model is saved for the last time.

    Args:
        model: A model of sentence-transformers, of any kind.
        lines: The Markdown of the block; that of a later call replaces it.
        tags: Tags of the card.
    """
    data = model.model_card_data
    # Without `raw`, a brace in a name would be taken for a command of the template.
    block = wrap_block(lines).replace(BEGIN, f"{BEGIN}{{% raw %}}").replace(END, f"{{% endraw %}}{END}")
    template = insert_block(Path(data.template_path).read_text(encoding="utf-8"), block)
    # A home folder may be read-only; then a folder of this process does, which alone needs the copy.
    for open_folder in (default_cache_dir, _open_own_folder):
        try:
            path = open_folder() / "cards" / f"{hash_values(template)}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, template)
        except OSError as error:
            failure = error
        else:
            data.template_path = path
            data.tags = [one for one in data.tags if one != TAG]  # a block from before training may have planned more
            data.add_tags(list(tags))
            return
    logger.warning("The model's card will not say how its batches were filled: %s", failure)


@cache
def _open_own_folder() -> Path:
    """Make a folder that goes when this process ends."""
    folder = Path(mkdtemp(prefix="st-cluster-batches-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def wrap_block(lines: Sequence[str]) -> str:
    """Return the lines between our markers."""
    return "\n".join([BEGIN, *lines, END])


def insert_block(text: str, block: str) -> str:
    """Put a block in the place of an earlier one, or before what the trainer says of the training, or at the end."""
    if _BLOCK.search(text):
        return _BLOCK.sub(lambda _: f"{block}\n", text, count=1)
    for heading in ("\n## Training Details\n", "\n## Citation\n"):
        if heading in text:
            return text.replace(heading, f"\n{block}\n{heading}".replace(f"{END}\n\n\n", f"{END}\n\n"), 1)
    return f"{text.rstrip()}\n\n{block}\n"


def remove_block(text: str) -> str:
    """Return a card without our block: what the trainer and people wrote."""
    return _BLOCK.sub("", text)


def list_block(text: str) -> list[str]:
    """Return the lines of a card that are between our markers; none if there are no markers."""
    found = _BLOCK.search(text)
    return [] if found is None else found[0].strip().splitlines()[1:-1]


def _cut_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a plan without what begins in an epoch that its run does not reach; steps may end it before.

    Plans of earlier versions do not say how many epochs there were, and are taken to reach all.
    """
    if (n_epochs := plan.get("epochs")) is None:
        return plan
    kept = {first: columns for first, columns in plan["strata"].items() if int(first) < max(n_epochs, 1)}
    refresh = plan.get("refresh")
    is_reached = refresh is not None and refresh["first"] < n_epochs
    return {**plan, "strata": kept, "refresh": refresh if is_reached else None}


def find_strategy(plans: Sequence[dict[str, Any]]) -> str | None:
    """Return the batch strategy of plans: the innermost column of a batch, or `random`; None without plans."""
    if not plans:
        return None
    columns = list(_cut_plan(plans[0])["strata"].values())[-1]
    return str(columns[-1]) if columns else "random"


def choose_tags(strategy: str | None) -> list[str]:
    """Return the tags of a model by its batch strategy: nobody looks for random or unknown batches under ours."""
    return [] if strategy in (None, "random", "stock") else [TAG]


def describe_batches(strategy: str | None, plans: Sequence[dict[str, Any]]) -> list[str]:
    """Return lines of Markdown that say how batches were filled: the first part of a block.

    Args:
        strategy: `random`, `stock`, `source`, `cluster` or another column that batches share; None if unknown, and
            then there is nothing to say.
        plans: What the batches of one epoch were made of, one plan for each dataset, as the callback writes them.
    """
    if strategy is None:
        return []
    plans = [_cut_plan(one) for one in plans]
    if strategy == "cluster" and any(one.get("rows_per_stratum") for one in plans):
        strategy = "clusters"
    how = _STRATEGIES.get(strategy, f"Every batch was filled from rows that share `{strategy}`.")
    if plans and len(plans[0]["strata"]) > 1:
        how = f"From epoch {list(plans[0]['strata'])[-1]} on, counted from 0: {how[0].lower()}{how[1:]}"
    lines = ["## Cluster batches", "", f"{how} See [the paper]({PAPER}); made with `st-cluster-batches`.", ""]
    return lines + _describe_plans(plans)


def _describe_plans(plans: Sequence[dict[str, Any]]) -> list[str]:
    if not plans:
        return []
    lines = ["| batches | |", "| --- | --- |"]
    first = plans[0]
    strata = "; ".join(
        f"{', '.join(f'`{column}`' for column in columns) or 'nothing'}"
        + (f" from epoch {epoch} on" if len(first["strata"]) > 1 else "")
        for epoch, columns in first["strata"].items()
    )
    chunk = first.get("rows_per_stratum")
    distinct = [first["distinct"]] if isinstance(first["distinct"], str) else first["distinct"] or []
    lines += [
        f"| {f'each {chunk:,} rows of a batch' if chunk else 'rows of a batch'} share | {strata} |",
        f"| they never repeat | {', '.join(f'`{column}`' for column in distinct) or 'nothing'} |",
        f"| rows of a global batch | {first['batch_size'] * first['world_size']:,} "
        f"({first['batch_size']:,} on each of {first['world_size']}) |",
        f"| random batches on purpose | {first['random_fraction']:.0%} |",
        f"| seed | {first['seed']} |",
        *([f"| rows of each stratum in a batch | {chunk:,} |"] if chunk else []),
        *_describe_refresh(plans),
    ]
    # Later epochs are of other clusters, or share other columns, and are planned when they begin.
    epoch = "the first epoch" if first.get("refresh") or len(first["strata"]) > 1 else "one epoch"
    lines += [
        f"| {epoch}{f' of dataset {at}' if len(plans) > 1 else ''} | {PlanCounts(**plan['counts'])} |"
        for at, plan in enumerate(plans, 1)
    ]
    return [*lines, ""]


def _describe_refresh(plans: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows on clusters of the model that was being trained, and on their cost once they were made."""
    if not (refresh := plans[0].get("refresh")):
        return []
    every = "each epoch" if refresh["every"] == 1 else f"every {refresh['every']} epochs"
    kinds = f"of {refresh['cluster_size']:,} rows on average by their `{refresh['key']}`"
    rows = [f"| clusters made anew of the model | {every} from epoch {refresh['first']} on, {kinds} |"]
    if made := [one for plan in plans for one in plan.get("refreshes", [])]:
        rows.append(f"| that took | {sum(one['seconds'] for one in made):,.1f} s, {len(made):,} times |")
    return rows
