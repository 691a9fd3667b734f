"""Labelled data as a repository: parquet files, the clustering that labelled them, and a card that says how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

from st_cluster_batches.batches.card_block import PAPER, TAG, insert_block, wrap_block
from st_cluster_batches.clusters.artefact import CENTROIDS_FILE, MANIFEST_FILE
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.clusters.output import check_belonging
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.naming import escape_cell, name_splits, quote_code
from st_cluster_batches.publishing.card import mark_block
from st_cluster_batches.publishing.front_matter import Description
from st_cluster_batches.publishing.licences import find_identifier
from st_cluster_batches.publishing.model_files import CARD
from st_cluster_batches.publishing.staging import draw_sizes, fill_stage, stage_clustering
from st_cluster_batches.row_keys import ROW_KEY, has_row_keys

DATA = "data"

_ROWS_OF_A_FILE = 500_000
_MEANINGS = {
    SOURCE: "where the row comes from; clusters lie within one source",
    CLUSTER: "number of the row's cluster; neighbours in number are neighbours in meaning",
    FALSE_NEGATIVE_KEYS: "hashes of a row's texts: rows that share one are false negatives of one another, unless "
    "both have it with a minus, as the text of an explicit negative",
}
_ROW_KEY_MEANING = (
    "row key, by which a guided loss finds the row's vectors; they are not published: attach again with "
    "`guide=True, overwrite=True`"
)


def build_dataset(source: Path, output: Path, about: Description | None = None) -> Path:
    """Fill a folder with labelled data and its clustering, ready to be published.

    Args:
        source: Output folder of `attach`.
        output: Folder to fill; see `build_model`.
        about: What only its author knows.

    Returns:
        The folder. `load_dataset` gives the data back, and `Clustering.load` the clustering.

    Raises:
        FileNotFoundError: If there is no clustering beside the data.
        ValueError: If the data has no labels.
    """
    from datasets import DatasetDict, load_from_disk

    about = about or Description()
    for file in (MANIFEST_FILE, CENTROIDS_FILE):
        if not (source / file).is_file():
            raise FileNotFoundError(f"{source} has no {file} beside its data; st-cluster-batches attach writes both")
    data = load_from_disk(str(source))
    parts = dict(data) if isinstance(data, DatasetDict) else {"train": data}
    for part in parts.values():
        if missing := {CLUSTER} - set(part.column_names):
            raise ValueError(f"{source} has no column {min(missing)!r}; label it: st-cluster-batches attach")
    check_belonging(source, parts.values())
    splits = name_splits(parts)

    def fill(stage: Path, earlier: str | None) -> None:
        (stage / DATA).mkdir()
        for name, part in parts.items():
            n_files = max(1, -(-len(part) // _ROWS_OF_A_FILE))
            for at in range(n_files):
                shard = part.with_format(None).shard(n_files, at, contiguous=True)
                shard.to_parquet(str(stage / DATA / f"{splits[name]}-{at:05d}-of-{n_files:05d}.parquet"))
        manifest = stage_clustering(source, stage)
        card = _make_card(parts, manifest, about, draw_sizes(manifest, stage), earlier)
        (stage / CARD).write_text(card, encoding="utf-8")

    return fill_stage(output, fill)


def _make_card(
    parts: dict[str, Any], manifest: dict[str, Any], about: Description, figures: list[str], earlier: str | None
) -> str:
    splits = name_splits(parts)

    def fill_in(text: str) -> str:
        card = DatasetCard(text, ignore_metadata_errors=True)
        data: Any = card.data
        data.tags = list(dict.fromkeys([*(data.tags or []), "sentence-transformers", TAG]))
        data.configs = [
            {
                "config_name": config,
                "data_files": [{"split": splits[name], "path": f"{DATA}/{splits[name]}-*.parquet"} for name in group],
            }
            for config, group in _group_by_features(parts).items()
        ]
        if about.license:
            data.license = find_identifier(about.license)
        if about.language:
            data.language = list(about.language)
        if about.datasets:
            data.source_datasets = list(about.datasets)
        card.text = insert_block(card.text, _render_block(parts, manifest, about, figures))
        return str(card)

    return mark_block(fill_in, "---\ntags: []\n---\n\n# Pairs with cluster labels\n", earlier)


def _group_by_features(parts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parts by configuration, each of parts with the same columns: a configuration can hold no others.

    Several have the names of their first splits. None is a default then, which would be taken for all that there is.
    """
    groups: list[dict[str, Any]] = []
    for name, part in parts.items():
        group = next((one for one in groups if next(iter(one.values())).features == part.features), None)
        if group is None:
            groups.append({name: part})
        else:
            group[name] = part
    splits = name_splits(parts)
    return {splits[next(iter(group))]: group for group in groups} if len(groups) > 1 else {"default": groups[0]}


def _render_block(parts: dict[str, Any], manifest: dict[str, Any], about: Description, figures: list[str]) -> str:
    rows = sum(map(len, parts.values()))
    groups, splits = _group_by_features(parts), name_splits(parts)
    taken = f" of {', '.join(f'`{one}`' for one in about.datasets)}" if about.datasets else ""
    lines = [
        "## Cluster labels",
        "",
        f"{rows:,} rows{taken}, labelled so that a contrastive batch can be filled from one topic ([paper]({PAPER})).",
        "",
        *(line for config, group in groups.items() for line in _describe_features(config, group, manifest, splits)),
        *describe_clustering(manifest),
        *_describe_splits(parts),
        *(f"![cluster sizes]({figure})\n" for figure in figures),
        "### How to train on it",
        "",
        "```python",
        *_show_loading(groups),
        'clustering = Clustering.load("sentence_transformers_model_id")',
        "# SentenceTransformerTrainingArguments(..., batch_sampler=ClusterBatchSampler)",
        "```",
        "",
        f"Licence of the texts: {about.license}."
        if about.license
        else "The licence of the texts is that of their source; it is not stated here.",
        "",
    ]
    return wrap_block(lines)


def _describe_features(
    config: str, group: dict[str, Any], manifest: dict[str, Any], splits: dict[str, str]
) -> list[str]:
    """Return a table of the columns of a configuration."""
    name, first = next(iter(group.items()))
    columns = manifest.get("columns", [])
    texts = columns if isinstance(columns, list) else columns.get(name, next(iter(columns.values())))
    own = {ROW_KEY: _ROW_KEY_MEANING} if has_row_keys(first) else {}
    roles = dict(zip(texts, ("query", "positive", *["negative"] * len(texts)), strict=False))
    meanings = {**_MEANINGS, **own, **roles}
    shown = ", ".join(f"`{splits[one]}`" for one in group)
    title = [] if config == "default" else [f"Configuration `{config}`, of the splits {shown}:", ""]
    rows = [
        f"| {quote_code(one)} | {_name_type(feature)} | {meanings.get(one, '')} |"
        for one, feature in first.features.items()
    ]
    return [*title, "| column | type | meaning |", "| --- | --- | --- |", *rows, ""]


def _show_loading(groups: dict[str, dict[str, Any]]) -> list[str]:
    """Return lines of Python that load the data of all configurations."""
    several = len(groups) > 1
    lines = [
        f"from datasets import {'DatasetDict, ' if several else ''}load_dataset",
        "from st_cluster_batches import ClusterBatchSampler, Clustering",
        "",
    ]
    if several:
        parts = f'[load_dataset("sentence_transformers_model_id", name) for name in {list(groups)}]'
        return [*lines, f"parts = {parts}", "train = DatasetDict({name: one[name] for one in parts for name in one})"]
    is_train = list(next(iter(groups.values()))) == ["train"]
    return [*lines, 'train = load_dataset("sentence_transformers_model_id")' + ('["train"]' if is_train else "")]


def _describe_splits(parts: dict[str, Any]) -> list[str]:
    """Return lines on which dataset is which split, where a split cannot have its name."""
    splits = name_splits(parts)
    if all(name == split for name, split in splits.items()):
        return []
    rows = [f"| `{split}` | {escape_cell(name)} | {len(parts[name]):,} |" for name, split in splits.items()]
    return ["| split | dataset | rows |", "| --- | --- | ---: |", *rows, ""]


def _name_type(feature: Any) -> str:
    """Name the type of a column as the Hub's data viewer does."""
    inner = getattr(feature, "feature", None)
    return (
        f"list of {_name_type(inner)}" if inner is not None else str(getattr(feature, "dtype", type(feature).__name__))
    )
