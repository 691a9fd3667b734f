"""A clustering in lines of Markdown, for the cards of models and of labelled data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from st_cluster_batches.clusters.choice import Candidate, method_of
from st_cluster_batches.data.naming import escape_cell, list_few, quote_code, show_line

_MAX_SHOWN_SOURCES = 10


def describe_clustering(manifest: dict[str, Any], has_centroids: bool = True) -> list[str]:
    """Return lines of Markdown that say how rows were clustered, and into what.

    Args:
        manifest: That of the clustering.
        has_centroids: Whether the clustering itself lies beside the text; else only the pairs have its labels.
    """
    remark = " `Clustering.load` with this repository's id gives the centroids." if has_centroids else ""
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    lines = [
        f"The rows were clustered by their `{manifest['key']}`, embedded with `{manifest['encoder']}` "
        f"({manifest['dim']} dimensions, weights `{manifest['encoder_hash'][:16]}`), {_describe_method(manifest)} "
        f"with seed {manifest['seed']} ({versions}).{remark}",
        *_describe_columns(manifest.get("columns")),
        *([] if "guide_model" not in manifest else ["", f"Vectors that mask are of `{manifest['guide_model']}`."]),
        *_describe_choice(manifest.get("tuned")),
        "",
    ]
    table = [
        "| source | rows | clusters | smallest | median | largest | mean similarity to centroid |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in manifest["statistics"].items():
        sizes = one["sizes"]
        counts = (one["rows"], one["clusters"], min(sizes), round(float(np.median(sizes))), max(sizes))
        table.append(
            f"| {escape_cell(name)} | {' | '.join(f'{count:,}' for count in counts)} | {one['objective']:.3f} |"
        )
    if len(manifest["statistics"]) > _MAX_SHOWN_SOURCES:
        # Folded away: the block would be longer than the rest of the card.
        summary = f"<details><summary>Clusters of {len(manifest['statistics'])} sources</summary>"
        table = [summary, "", *table, "", "</details>"]
    return [*lines, *table, ""]


def name_strategy(strategy: str | None, manifests: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what batches share, in truth: clusters that are whole sources are sources.

    Args:
        strategy: As the recipe or the plans have it.
        manifests: Those of the clusterings that are known.
    """
    statistics = [one for manifest in manifests for one in manifest["statistics"].values()]
    is_whole = bool(statistics) and all(one["clusters"] == 1 for one in statistics)
    return "source" if strategy == "cluster" and is_whole else strategy


def _describe_method(manifest: dict[str, Any]) -> str:
    """Return how clusters were made, source by source where that differs."""
    cut = [name for name in manifest["statistics"] if method_of(manifest.get("method"), name) == "communities"]
    if not cut:
        return "by spherical k-means"
    communities = "as communities, which METIS cut out of the graph of near queries and passages,"
    if len(cut) == len(manifest["statistics"]):
        return communities
    shown = list_few([quote_code(name) for name in cut], _MAX_SHOWN_SOURCES, ", ")
    return f"by spherical k-means, but {shown} {communities}"


def _describe_columns(columns: list[str] | dict[str, list[str]] | None) -> list[str]:
    """Return lines on which column is what; none for a clustering that does not know."""
    named = columns if isinstance(columns, dict) else {"": columns} if columns else {}
    lines = []
    for name, texts in named.items():
        roles = [f"{role} `{text}`" for role, text in zip(("query", "positive"), texts, strict=False)]
        negatives = ", ".join(f"`{text}`" for text in texts[2:])
        roles += [f"negatives {negatives}"] if negatives else []
        lines += ["", f"Columns{f' of `{name}`' if name else ''}: {', '.join(roles)}."]
    return lines


def _describe_choice(tuned: dict[str, Any] | None) -> list[str]:
    """Return lines on what `tune` chose, and why; none where nothing was tuned."""
    if tuned is None:
        return []
    lines = ["", f"`tune` chose for batches of {tuned['batch_size']:,} rows, by trials on held-out pairs:", ""]
    for name, values in tuned["sources"].items():
        why = tuned["evidence"].get(name, {}).get("why")
        chosen = Candidate(**values)
        way = str(chosen) if chosen.cluster_size else f"random rows of the source{', masked' if chosen.masked else ''}"
        lines.append(f"- {quote_code(name)}: {way}{f' ({why})' if why else ''}")
    return lines


def describe_statistics(statistics: dict[str, Any]) -> list[str]:
    """Return the clusters of every source as lines for a terminal.

    Args:
        statistics: Those of a clustering's manifest.
    """
    lines = [f"{'source':<24}{'rows':>10}{'clusters':>10}{'smallest':>10}{'largest':>10}{'similarity':>12}"]
    for name, one in statistics.items():
        counts = (one["rows"], one["clusters"], min(one["sizes"]), max(one["sizes"]))
        cells = "".join(f"{count:>10,}" for count in counts)
        lines.append(f"{show_line(name, 23):<24}{cells}{one['objective']:>12.3f}")
    return lines
