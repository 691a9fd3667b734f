"""The model card: our block between markers, the front matter, and no training rows. What people wrote stays."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import ModelCard

from st_cluster_batches.batches.filling import PlanCounts
from st_cluster_batches.columns import LABEL_COLUMNS
from st_cluster_batches.evaluation.report import describe_results
from st_cluster_batches.evaluation.significance import bootstrap_difference
from st_cluster_batches.publishing.contents import Evidence
from st_cluster_batches.publishing.front_matter import Description, fill_front_matter

logger = logging.getLogger(__name__)

BEGIN, END = "<!-- st-cluster-batches:begin -->", "<!-- st-cluster-batches:end -->"
PAPER = "https://arxiv.org/abs/2407.18887"

_BLOCK = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}\n*", re.DOTALL)
MARK = re.compile(r"<!-- around: ([0-9a-f]{16}) -->")
_MAX_SHOWN_SOURCES = 10
_TRAIN_AGAIN = """```bash
st-cluster-batches train results/recipe.yaml --data_dir DATA --output_dir RUN
```

DATA is the folder of training data and collections; names without a slash may have been paths."""
_STRATEGIES = {
    "cluster": "Batches were filled from **one cluster** of one source, so that in-batch negatives are hard; what was "
    "left over is packed with its neighbours, as counted below.",
    "source": "Batches were filled from **one source**; what was left over is mixed, as counted below.",
    "random": "Batches are of **random rows**: the baseline, not cluster batches.",
}


def make_card(text: str, evidence: Evidence, about: Description, figures: Sequence[str], edited: str | None) -> str:
    """Make the README of a model.

    Args:
        text: The README that training left, or none.
        evidence: What is known of the model.
        about: What its author says of it.
        figures: Paths of the figures, relative to the README.
        edited: The README of an earlier build. If someone has written into it, around the block, it is the one that
            is kept, with a new block and front matter.

    Returns:
        The card, the same for the same arguments.
    """
    return mark_block(lambda base: _fill_in(base, evidence, about, figures), _clean(text, about), edited)


def mark_block(fill_in: Callable[[str], str], text: str, edited: str | None) -> str:
    """Fill in a card such that the next build knows whether a person has changed the text around the block.

    Args:
        fill_in: Puts front matter and block into a card.
        text: The card to start from.
        edited: The card of an earlier build; if it was changed around the block, it is the one to start from.
    """
    card = fresh = fill_in(text)
    if edited is not None and is_edited(edited):
        card = fill_in(edited)
        logger.info("The README was edited since it was built: its text stays, and the trainer's is not taken")
    # The mark stays what it is when a person changes the text.
    return card.replace(END, f"<!-- around: {_digest(remove_block(fresh))} -->\n{END}")


def _fill_in(text: str, evidence: Evidence, about: Description, figures: Sequence[str]) -> str:
    card = ModelCard(text, ignore_metadata_errors=True)
    fill_front_matter(card, evidence, about)
    card.text = insert_block(card.text, render_block(evidence, figures))
    return str(card)


def is_edited(text: str) -> bool:
    """Return whether a built card was changed around its block since."""
    found = MARK.search(text)
    return found is not None and found[1] != _digest(remove_block(text))


def insert_block(text: str, block: str) -> str:
    """Put the block in the place of an earlier one, or before what the trainer says of the training, or at the end."""
    if _BLOCK.search(text):
        return _BLOCK.sub(lambda _: f"{block}\n", text, count=1)
    for heading in ("\n## Training Details\n", "\n## Citation\n"):
        if heading in text:
            return text.replace(heading, f"\n{block}\n{heading}".replace(f"{END}\n\n\n", f"{END}\n\n"), 1)
    return f"{text.rstrip()}\n\n{block}\n"


def remove_block(text: str) -> str:
    """Return a card without our block: what the trainer and people wrote."""
    return _BLOCK.sub("", text)


def render_block(evidence: Evidence, figures: Sequence[str] = ()) -> str:
    """Say how the batches were filled, and what came of it.

    Args:
        evidence: What is known.
        figures: Paths of the figures, relative to the card.

    Returns:
        Markdown between our markers.
    """
    strategy = evidence.strategy
    lines = [BEGIN, "## Cluster batches", ""]
    if strategy is not None:
        how = _STRATEGIES.get(strategy, f"Every batch was filled from rows that share `{strategy}`.")
        lines += [f"{how} See [the paper]({PAPER}); made with `st-cluster-batches`.", ""]
    lines += [*_describe_plans(evidence.plans), *describe_clustering(evidence.clustering)]
    lines += [f"![{_caption(one)}]({one})\n" for one in figures if "cluster_sizes" in one]
    lines += _describe_scores(evidence)
    if evidence.comparison is not None:
        lines += ["### Compared with random batches", "", describe_results(evidence.comparison), ""]
        lines += [f"![{_caption(one)}]({one})\n" for one in figures if "cluster_sizes" not in one]
    if evidence.recipe:
        lines += ["### How to train it again", "", "`results/recipe.yaml`:", "", "```yaml"]
        lines += [yaml.safe_dump(dict(evidence.recipe), sort_keys=False).rstrip(), "```", ""]
        lines += [_TRAIN_AGAIN, ""]
    return "\n".join([*lines, END])


def _describe_plans(plans: Sequence[dict[str, Any]]) -> list[str]:
    if not plans:
        return []
    lines = ["| batches | |", "| --- | --- |"]
    first = plans[0]
    strata = "; ".join(
        f"{', '.join(f'`{column}`' for column in columns)}"
        + (f" from epoch {epoch} on" if len(first["strata"]) > 1 else "")
        for epoch, columns in first["strata"].items()
    )
    distinct = f"`{first['distinct']}`" if first["distinct"] else "nothing"
    lines += [
        f"| rows of a batch share | {strata} |",
        f"| they never repeat | {distinct} |",
        f"| rows of a global batch | {first['batch_size'] * first['world_size']:,} "
        f"({first['batch_size']:,} on each of {first['world_size']}) |",
        f"| random batches on purpose | {first['random_fraction']:.0%} |",
        f"| seed | {first['seed']} |",
    ]
    lines += [
        f"| one epoch{f' of dataset {at}' if len(plans) > 1 else ''} | {PlanCounts(**plan['counts'])} |"
        for at, plan in enumerate(plans, 1)
    ]
    return [*lines, ""]


def describe_clustering(manifest: dict[str, Any] | None) -> list[str]:
    """Say in lines of Markdown how rows were clustered, and into what."""
    if manifest is None:
        return []
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    lines = [
        f"The rows were clustered by their `{manifest['key']}`, embedded with `{manifest['encoder']}` "
        f"({manifest['dim']} dimensions, weights `{manifest['encoder_hash'][:16]}`), by spherical k-means with seed "
        f"{manifest['seed']} ({versions}). `Clustering.load` with this repository's id gives the centroids.",
        "",
    ]
    table = [
        "| source | rows | clusters | smallest | median | largest | mean similarity to centroid |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in manifest["statistics"].items():
        sizes = one["sizes"]
        counts = (one["rows"], one["clusters"], min(sizes), round(float(np.median(sizes))), max(sizes))
        table.append(f"| {name} | {' | '.join(f'{count:,}' for count in counts)} | {one['objective']:.3f} |")
    if len(manifest["statistics"]) > _MAX_SHOWN_SOURCES:
        summary = f"<details><summary>Clusters of {len(manifest['statistics'])} sources</summary>"
        table = [summary, "", *table, "", "</details>"]
    return [*lines, *table, ""]


def _describe_scores(evidence: Evidence) -> list[str]:
    if evidence.scores is None:
        return []
    lines = [
        "### Evaluation",
        "",
        "nDCG@10 of this very model, with the 95 % interval over queries (bootstrap).",
        "",
        "| task | queries | nDCG@10 | 95 % interval |",
        "| --- | ---: | ---: | ---: |",
    ]
    for task, one in evidence.scores.summary.items():
        found = bootstrap_difference([np.array([list(evidence.scores.per_query[task].values())])])
        lines.append(
            f"| {task} | {one['queries']:,} | {one['ndcg_at_10']:.4f} | {found.low:.4f} to {found.high:.4f} |"
        )
    if evidence.comparison is None:
        lines += ["", "It was not compared with a model of random batches."]
    return [*lines, ""]


def _clean(text: str, about: Description) -> str:
    """Take training rows, and columns that are labels of ours, out of what the trainer wrote."""
    if not text:
        return "---\nlibrary_name: sentence-transformers\n---\n\n# SentenceTransformer\n"
    text = re.sub(r"(?m)^(\* Approximate statistics.*\n)((?:  \|.*\n)+)", _drop_label_columns, text)
    if about.include_samples:
        return text
    text = re.sub(r"(?m)^\* Samples:\n(?:  \|.*\n)+", "", text)
    return re.sub(r"(?s)(# Run inference\n)(.*?)(\n```)", _replace_examples, text, count=1)


def _drop_label_columns(found: re.Match[str]) -> str:
    """Drop the columns that batches are made of: the trainer counts every value of an integer column."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found[2].splitlines()]
    kept = [at for at, name in enumerate(rows[0]) if name not in LABEL_COLUMNS]
    if len(kept) == len(rows[0]):
        return found[0]
    return found[1] + "".join(f"  | {' | '.join(row[at] for at in kept)} |\n" for row in rows)


def _replace_examples(found: re.Match[str]) -> str:
    """Put words of our own where the trainer's usage example shows training rows, and drop what came out for those."""
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
