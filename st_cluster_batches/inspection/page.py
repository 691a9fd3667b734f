"""An inspection as one HTML file that loads nothing from the network, and as PNG figures."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from st_cluster_batches.clusters.vectors import join_sides
from st_cluster_batches.data.pairs import sides_of
from st_cluster_batches.evaluation.figures import SIZES_FIGURE, draw_cluster_sizes, draw_negatives
from st_cluster_batches.inspection.findings import Inspection
from st_cluster_batches.plans.filling import MIXED, POOLED, PURE, RANDOM
from st_cluster_batches.storage.cache import write_atomically

_HARDNESS_FILE = "batch_hardness.png"

_KINDS = {PURE: "pure", POOLED: "pooled", MIXED: "mixed", RANDOM: "random"}
_VIEWED_ROWS = 10_000  # whose texts the page holds
_SHOWN_CHARACTERS = 300


def write_page(inspection: Inspection, path: Path) -> None:
    """Write the report as one HTML file, with plotly's script inside.

    Args:
        inspection: From `inspect`.
        path: The file.
    """
    from plotly.offline import get_plotlyjs

    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    # `<` in the data could end the script element that holds it.
    data = json.dumps(_collect(inspection), ensure_ascii=False).replace("<", "\\u003c")
    before, _, after = template.partition("__DATA__")
    page = before.replace("__PLOTLY__", get_plotlyjs()) + data + after
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def draw_inspection(inspection: Inspection, page: Path) -> list[Path]:
    """Draw cluster sizes and hardness as PNG files.

    Args:
        inspection: From `inspect`.
        page: The report, beside which they go under its name.

    Returns:
        The files.
    """
    size = inspection.batch_size * inspection.world_size
    return [
        draw_cluster_sizes(_sizes_by_source(inspection), page.with_name(f"{page.stem}_{SIZES_FIGURE}"), size),
        draw_negatives(inspection.hardness, page.with_name(f"{page.stem}_{_HARDNESS_FILE}")),
    ]


def _sizes_by_source(inspection: Inspection) -> dict[str, list[int]]:
    pairs = inspection.sample.pairs
    return {
        name: np.unique(pairs.strata[pairs.source_of_row == at], return_counts=True)[1].tolist()
        for at, name in enumerate(pairs.source_names)
    }


def _collect(inspection: Inspection) -> dict[str, Any]:
    """Gather what the page shows."""
    described = inspection.describe()
    pairs = inspection.sample.pairs
    for cluster in described["clusters"]:
        for name in ("typical", "borderline"):
            texts = pairs.read_texts(np.array(cluster[name]))
            cluster[name] = [[_cut(query), _cut(passage)] for query, passage in zip(*texts, strict=True)]
    border = [pair for mask in described["masks"] for side in ("masked", "kept") for pair in mask[side]]
    for pair in [*described["worst_pairs"], *border]:
        pair.update({name: _cut(pair[name]) for name in ("query", "passage", "other_passage")})
    return {
        **described,
        "sizes": _sizes_by_source(inspection),
        "all_clusters": len(np.unique(pairs.strata)),
        "map": _draw_map(inspection),
        **_view_batches(inspection),
    }


def _draw_map(inspection: Inspection) -> dict[str, Any]:
    """Lay a sample of the rows out in the plane by t-SNE (scikit-learn)."""
    from sklearn.manifold import TSNE

    sample = inspection.sample
    at = sample.find(sample.map_rows)
    sides = (getattr(sample, f"{side}_vectors") for side in sides_of(inspection.key))
    vectors = join_sides([side[at] for side in sides])
    plane = np.zeros((len(at), 2))
    if len(at) > 3:
        perplexity = min(30.0, (len(at) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(vectors)
    clusters = sample.pairs.clusters[sample.map_rows]
    queries, passages = sample.pairs.read_texts(sample.map_rows)
    texts = [
        f"cluster {cluster}: {query[:80]} → {passage[:80]}"
        for cluster, query, passage in zip(clusters.tolist(), queries, passages, strict=True)
    ]
    # Clusters with neighbouring numbers are similar, and get similar colours.
    colours = np.unique(sample.pairs.strata[sample.map_rows], return_inverse=True)[1]
    return {
        "x": plane[:, 0].round(3).tolist(),
        "y": plane[:, 1].round(3).tolist(),
        "text": texts,
        "colour": colours.tolist(),
        "in_cluster_batch": np.isin(sample.map_rows, sample.batches["cluster"][0]).tolist(),
        "in_random_batch": np.isin(sample.map_rows, sample.batches["random"][0]).tolist(),
    }


def _view_batches(inspection: Inspection) -> dict[str, Any]:
    """Take the planned batches in their order, all of them or as many as the page can hold."""
    pairs = inspection.sample.pairs
    planned = inspection.sample.samplers["cluster"].plan_epoch()
    batches = [(planned.rows[at], _KINDS[int(planned.kinds[at])]) for at in planned.order]
    if len(planned.last):
        batches.append((planned.last, "last"))
    size = max(1, inspection.batch_size * inspection.world_size)
    n_viewed = min(len(batches), max(1, _VIEWED_ROWS // size))
    viewed = []
    for number in np.linspace(0, len(batches) - 1, n_viewed).round().astype(int).tolist():
        rows, kind = batches[number]
        texts = pairs.read_texts(rows)
        sources = [pairs.source_names[one] for one in pairs.source_of_row[rows]]
        labels = (rows.tolist(), sources, pairs.clusters[rows].tolist())
        cells = [list(one) for one in zip(*labels, *([_cut(text) for text in side] for side in texts), strict=True)]
        viewed.append({"number": number, "kind": kind, "rows": cells})
    return {"batches": viewed, "all_batches": len(batches)}


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
