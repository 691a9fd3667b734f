"""The model card: our block between markers, the front matter, and no training rows. What a person wrote is kept."""

from __future__ import annotations

import ast
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from huggingface_hub import ModelCard

from st_cluster_batches.batches.card_block import (
    END,
    describe_batches,
    insert_block,
    list_block,
    remove_block,
    wrap_block,
)
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS
from st_cluster_batches.data.naming import escape_cell
from st_cluster_batches.evaluation.figures import SIZES_FIGURE
from st_cluster_batches.evaluation.report import describe_results
from st_cluster_batches.evaluation.significance import bootstrap_difference
from st_cluster_batches.publishing.contents import CardContents
from st_cluster_batches.publishing.front_matter import Description, check_front_matter, fill_front_matter
from st_cluster_batches.row_keys import ROW_KEY, TARGET_COLUMNS
from st_cluster_batches.training.folder import HUB_ID, describe_recipe, publish_values

logger = logging.getLogger(__name__)

MARK = re.compile(r"<!-- around: ([0-9a-f]{16}) -->")


def make_card(
    text: str, contents: CardContents, about: Description, figures: Sequence[str], edited: str | None
) -> str:
    """Make the README of a model.

    Args:
        text: The README that training left, or none.
        contents: What is known of the model.
        about: What only its author knows.
        figures: Paths of the figures, relative to the README.
        edited: The README of an earlier build. If someone has written into it, around the block, it is the one that
            is kept, with a new block and front matter.

    Returns:
        The card, the same for the same arguments.
    """
    # Training without a recipe leaves no more than its own card; one that was built may be of other weights.
    is_built, is_known = MARK.search(text) is not None, bool(contents.recipe or contents.plans)
    own = [] if is_known or is_built else list_block(text)
    if is_built and not is_known:
        logger.warning(
            "The model's card is one that was built before, perhaps for other weights: what it says of batches and "
            "scores is taken out. Build the folder that the training left, or give --scores of an evaluation"
        )
    return mark_block(
        lambda base: _fill_in(base, contents, about, figures, own), _clean(text, about, _find_labels(contents)), edited
    )


def mark_block(fill_in: Callable[[str], str], text: str, edited: str | None) -> str:
    """Fill in a card such that the next build knows whether a person has changed the text around the block.

    Args:
        fill_in: Puts front matter and block into a card.
        text: The card to start from.
        edited: The card of an earlier build; if it was changed around the block, it is the one to start from.
    """
    check_front_matter(text, "README.md")
    if edited is not None:
        check_front_matter(edited, "README.md of the earlier build")
    card = fresh = fill_in(text)
    if edited is not None and is_edited(edited):
        card = fill_in(edited)
        logger.info("The README was edited since it was built: its text stays, and the trainer's is not taken")
    # A digest of the text around the block: when a person changes the text, the two differ.
    return card.replace(END, f"{_make_mark(fresh)}\n{END}")


def _fill_in(text: str, contents: CardContents, about: Description, figures: Sequence[str], own: Sequence[str]) -> str:
    card = ModelCard(text, ignore_metadata_errors=True)
    fill_front_matter(card, contents, about)
    card.text = insert_block(card.text, render_block(contents, figures, own))
    return str(card)


def is_edited(text: str) -> bool:
    """Return whether a built card was changed around its block since."""
    found = MARK.search(text)
    return found is not None and found[1] != _digest(remove_block(text))


def renew_mark(text: str) -> str:
    """Return a built card that counts as unedited, whatever was put into it since."""
    return MARK.sub(_make_mark(text), text)


def _make_mark(text: str) -> str:
    return f"<!-- around: {_digest(remove_block(text))} -->"


def render_block(contents: CardContents, figures: Sequence[str] = (), own: Sequence[str] = ()) -> str:
    """Put together what a card says of its model: batches, clustering, scores, comparison and recipe.

    Args:
        contents: What is known.
        figures: Paths of the figures, relative to the card.
        own: Lines that training left in the card, where nothing else is known of it.

    Returns:
        Markdown between our markers.
    """
    lines = [*own, *describe_batches(contents.strategy, contents.plans)]
    if contents.steps is not None:
        lines += ["These are the weights after {:,} of the {:,} steps of the training.".format(*contents.steps), ""]
    if contents.resumed_from is not None:
        text = "The training was resumed, last from step {:,}: the training time of this card is of what followed."
        lines += [text.format(contents.resumed_from), ""]
    if contents.clustering is not None:
        lines += describe_clustering(contents.clustering)
    for one in contents.attached:
        lines += describe_clustering(one, has_centroids=False)
    lines += contents.guided
    lines += [f"![{_caption(one)}]({one})\n" for one in figures if one.endswith(SIZES_FIGURE)]
    lines += _describe_scores(contents)
    if contents.comparison is not None:
        lines += ["### Compared with random batches", "", describe_results(contents.comparison), ""]
        if contents.other_training:
            lines += [f"The recipe of this model is not that of these runs: {'; '.join(contents.other_training)}.", ""]
        lines += [f"![{_caption(one)}]({one})\n" for one in figures if not one.endswith(SIZES_FIGURE)]
    return wrap_block([*lines, *describe_recipe(contents.published_recipe)])


def _describe_scores(contents: CardContents) -> list[str]:
    if contents.scores is None:
        return []
    lines = [
        "### Evaluation",
        "",
        "nDCG@10 of this very model, with the 95 % interval over queries (bootstrap).",
        "",
        "| task | queries | nDCG@10 | 95 % interval |",
        "| --- | ---: | ---: | ---: |",
    ]
    for task, one in contents.scores.summary.items():
        found = bootstrap_difference([np.array([list(contents.scores.per_query[task].values())])])
        cells = f"{one['queries']:,} | {one['ndcg_at_10']:.4f} | {found.low:.4f} to {found.high:.4f}"
        mark = r" \*" if task in contents.scores.held_out else ""
        lines.append(f"| {escape_cell(task)}{mark} | {cells} |")
    if contents.scores.held_out:
        lines += [
            "",
            "\\* Pairs of the training data, held out with all that repeats them; the other documents are training "
            "passages. It tells what was learnt of such pairs, not how the model does on texts of other kinds.",
        ]
    if contents.comparison is None:
        lines += ["", "It was not compared with a model of random batches."]
    return [*lines, ""]


def _find_labels(contents: CardContents) -> set[str]:
    """Return the columns that batches were made of; a text may be called `source`, and then no plan names it."""
    named = {name for plan in contents.plans for columns in plan["strata"].values() for name in columns}
    return ({CLUSTER, FALSE_NEGATIVE_KEYS, *named} - set(TARGET_COLUMNS)) | ({ROW_KEY} if contents.guided else set())


def _clean(text: str, about: Description, labels: set[str]) -> str:
    """Remove training rows, places, and columns that are labels of ours, from what the trainer wrote."""
    if not text:
        return "---\nlibrary_name: sentence-transformers\n---\n\n# SentenceTransformer\n"
    drop = partial(_drop_label_columns, labels=labels)
    text = re.sub(r"(?m)^(\* Approximate statistics.*\n)((?:  \|.*\n)+)", drop, text)
    text = re.sub(
        r"(?s)(?<=### Training Hyperparameters\n).*?(?=\n#{1,3} |\Z)",
        lambda found: re.sub(r"(?m)^- `(\w+)`: (.*)\n", _publish_setting, found[0]),
        text,
    )
    text = re.sub(r"(= \w+\()([\"'])(.*?)\2\)", _publish_id, text)
    if about.include_samples:
        return text
    text = re.sub(r"(?m)^\* Samples:\n(?:  \|.*\n)+", "", text)
    return re.sub(r"(?s)(# Run inference\n)(.*?)(\n```)", _replace_examples, text, count=1)


def _drop_label_columns(found: re.Match[str], labels: set[str]) -> str:
    """Drop the columns that batches are made of: the trainer counts every value of an integer column."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found[2].splitlines()]
    kept = [at for at, name in enumerate(rows[0]) if name not in labels]
    if len(kept) == len(rows[0]):
        return found[0]
    return found[1] + "".join(f"  | {' | '.join(row[at] for at in kept)} |\n" for row in rows)


def _publish_setting(found: re.Match[str]) -> str:
    """Say of a training argument what a recipe may say of it; nothing if that is private."""
    try:
        value = ast.literal_eval(found[2])
    except (ValueError, SyntaxError):
        value = found[2]
    return "".join(f"- `{key}`: {one}\n" for key, one in publish_values({found[1]: value}, ()).items())


def _publish_id(found: re.Match[str]) -> str:
    """Let the usage example load the model by a Hub id, or by a word in its place."""
    name = found[3] if "/" not in found[3] or HUB_ID.fullmatch(found[3]) else "sentence_transformers_model_id"
    return f"{found[1]}{found[2]}{name}{found[2]})"


def _replace_examples(found: re.Match[str]) -> str:
    """Replace training rows in the trainer's usage example by a neutral text, and drop the similarities of those."""
    lines = []
    for line in found[2].split("\n"):
        if line.startswith("# tensor(") or re.match(r"#\s+\[", line):
            continue
        lines.append(re.sub(r"^(\s+\[?)(['\"]).*?(\]?,?)$", r'\1"Some text."\3', line))
    return found[1] + "\n".join(lines) + found[3]


def _caption(figure: str) -> str:
    return Path(figure).stem.replace("_", " ")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
