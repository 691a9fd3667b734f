"""Whether what is attached is what was tuned, or fitted: its sources, sizes, texts, encoder and mask."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from st_cluster_batches.clusters.choice import Choice, method_of
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.data.naming import list_few
from st_cluster_batches.data.pairs import WHOLE, Pairs, sides_of

logger = logging.getLogger(__name__)

_FAR = 5  # times the rows that sizes were tuned on, from which on a source is another one


def check_sources(tuned: Choice, parts: Sequence[Pairs]) -> None:
    """Raise a ValueError if the data have sources that nothing was chosen for."""
    if unknown := sorted({name for part in parts for name in part.sources} - set(tuned.sources)):
        raise ValueError(
            f"tuned= says nothing of {', '.join(map(repr, unknown))}, only of {', '.join(map(repr, tuned.sources))}; "
            "tune on data that have all of them: st-cluster-batches tune DATA --encoder E --output DIR, or attach "
            f"the others apart, with a cluster_size{_explain_unknown(unknown[0], tuned.sources)}"
        )


def check_known(names: Iterable[str], centroids: Collection[str]) -> None:
    """Raise a ValueError if a source has no centroids."""
    if unknown := sorted({*names} - {*centroids}):
        raise ValueError(
            f"The clustering knows no source {unknown[0]!r}, only {list(centroids)}; fit one on data that has it: "
            f"fit_clusters(...){_explain_unknown(unknown[0], centroids)}"
        )


def _explain_unknown(source: str, known: Collection[str]) -> str:
    """Say what a source that is not known may be called there; nothing where no name is near."""
    if source == WHOLE:
        only = f"dataset.add_column('source', [{min(known)!r}] * len(dataset))"
        several = "source_column=..., on the command line --source_column, in a recipe source_column:"
        # Of several sources, a column of one of them would call the rows of all others so, too.
        remedy = f"say of which they are: {only}" if len(known) == 1 else f"name the column that tells them: {several}"
        return f". Rows without a column of sources are of one, 'all'; {remedy}"
    datasets = sorted(name.removesuffix(f"/{source}") for name in known if name.endswith(f"/{source}"))
    return (
        f". Of a DatasetDict its name is {datasets[0]}/{source}: DatasetDict({datasets[0]}=dataset)"
        if datasets
        else ""
    )


def compare_choice(tuned: Choice, has_guide: bool, encoder: Encoder, parts: Sequence[Pairs]) -> None:
    """Warn where what was tuned is not what is done.

    Args:
        tuned: What was chosen.
        has_guide: Whether a guide is asked for besides.
        encoder: The model whose vectors are clustered.
        parts: The data.
    """
    counts = {name: n_rows for part in parts for name, n_rows in part.rows_of_source.items()}
    known = {name: tuned.evidence.get(name, {}) for name in counts}
    tried = {name: own.get("tuned_rows", counts[name]) for name, own in known.items()}
    small = [
        f"{counts[name]:,} rows of {name!r}, of which {tried[name]:,} were looked at"
        for name, own in known.items()
        if "why" in own and "ndcg" not in own and counts[name] > tried[name]
    ]
    if small:
        logger.warning(
            "Nothing was tried for want of rows, and one stratum taken, whose batches are random, for %s; tune on "
            "these: tune(dataset, encoder, batch_size=%d)",
            list_few(small),
            tuned.batch_size,
        )
    sized = [name for name in counts if tuned.sources[name].cluster_size is not None]
    if far := [name for name in sized if counts[name] >= _FAR * tried[name]]:
        logger.warning(
            "The sizes of clusters were tuned on a small part of the rows that they are for: %s. In so large a source "
            "clusters of a size are finer topics than those that were tried; tune on more of it: tune(..., "
            "max_rows=%d), or --max_rows",
            list_few([f"on {tried[name]:,} of {counts[name]:,} of {name}" for name in far]),
            max(counts[name] for name in far) // _FAR + 1,
        )
    _compare_tried_columns(tuned, parts)
    if tuned.encoder_hash != encoder.fingerprint:
        logger.warning(
            "The choice was tuned with clusters of %s, these are of %s%s: its sizes may not be the best here; tune "
            "with this encoder, its truncate_dim included",
            tuned.encoder,
            _name_other(encoder, tuned.encoder, tuned.encoder_hash),
            "" if encoder.truncate_dim is None else f" with truncate_dim={encoder.truncate_dim}",
        )
    if tuned.masked_sources and not has_guide:  # whoever asks for a guide knows what for
        logger.warning(
            "The choice masks false negatives of %s%s, and the rows get the keys that a guide needs. The gain that "
            "was measured needs a guided loss: GuidedMultipleNegativesRankingLoss(model, guide=train, margin=%g), or "
            "`loss: guided`",
            ", ".join(tuned.masked_sources),
            " alone" if tuned.unmasked_sources else "",
            tuned.margin,
        )


def compare_guide(tuned: Choice, guide: Encoder, is_given: bool) -> None:
    """Check that what masks is what was tuned to mask.

    Args:
        tuned: What was chosen.
        guide: The model whose vectors mask.
        is_given: Whether it was given as such, and is not the encoder for want of another.

    Raises:
        ValueError: If the choice masks by another model than the encoder, and none was given.
    """
    if not tuned.masked_sources:
        return
    if tuned.guide_model is not None and not is_given:
        raise ValueError(
            f"The choice masks false negatives of {', '.join(tuned.masked_sources)} by {tuned.guide_model!r}, not by "
            f"the encoder; name it, or where it lies: guide_model={tuned.guide_model!r}, on the command line "
            "--guide_model, in a recipe guide_model:"
        )
    # Of another encoder there is a warning already.
    wanted = tuned.about.get("guide_hash", tuned.encoder_hash)
    if is_given and guide.fingerprint != wanted:
        logger.warning(
            "The choice was tuned with a mask by %s, and %s is to mask here: its gain may be another one; tune with "
            "this guide_model",
            tuned.guide_model or tuned.encoder,
            _name_other(guide, tuned.guide_model or tuned.encoder, wanted),
        )


def _name_other(encoder: Encoder, name: str, wanted: str) -> str:
    """Return the name of a model that is not the one of that name and hash, told from it where both have one name."""
    if encoder.name != name:
        return encoder.name
    # A model in memory has the name of its class, a folder its last part alone.
    return (
        f"another {name}, whose weights, prompts, maximal length or dimensions differ (hash "
        f"{encoder.fingerprint[:16]}, not {wanted[:16]})"
    )


def _compare_tried_columns(tuned: Choice, parts: Sequence[Pairs]) -> None:
    """Warn where query and passage are not those of the trials."""
    others: dict[tuple[str, str], list[str]] = {}
    for part in parts:
        own = part.text_columns[:2]
        for name in part.sources:
            if (tried := tuned.evidence.get(name, {}).get("columns", own)) != own:
                others.setdefault((str(tried), str(own)), []).append(repr(name))
    for (tried_on, these), names in others.items():
        logger.warning(
            "The choice for %s was tuned on query and passage %s, these are %s; name the same ones by columns=, or "
            "tune on these",
            list_few(names),
            tried_on,
            these,
        )


def compare_columns(
    manifest: Mapping[str, Any], columns: Mapping[str, Sequence[str]], call: str = "attach(..., columns=(...))"
) -> None:
    """Warn where rows give other columns to a clustering than those that it was fitted on.

    Args:
        manifest: That of the clustering.
        columns: Query, positive and negatives by name of dataset.
        call: Where they are named.
    """
    fitted, sides = manifest.get("columns"), sides_of(manifest["key"])
    if fitted is None:
        return
    decide = [("query", "passage").index(side) for side in sides]
    by_name: Mapping[str, Sequence[str]] = fitted if isinstance(fitted, Mapping) else {"": fitted}
    for name, texts in columns.items():
        known = [[one[at] for at in decide] for one in ([by_name[name]] if name in by_name else by_name.values())]
        if (own := [texts[at] for at in decide]) not in known:
            logger.warning(
                "The clusters were fitted on the %s %s, %s give %s. Where that is another text, its clusters mean "
                "nothing: name query and passage, %s. Where it is the same one by another name, nothing is amiss",
                " and ".join(sides),
                " or ".join(map(str, known)),
                f"these rows of {name!r}" if name else "these rows",
                own,
                call,
            )


def tell_of_keyless(tuned: Choice | None, guide: bool, is_stream: bool) -> None:
    """Warn where rows that are to be trained on with a mask get no keys by which a loss finds their vectors."""
    if tuned is None or not tuned.masked_sources or guide:
        return
    call = "dataset, guide=True) gives them"
    if is_stream:
        call = "Dataset.from_list(list(stream)), guide=True) gives them, and a stream cannot have them"
    logger.warning(
        "The clusters were tuned for a loss that masks false negatives of %s, and these rows get no row keys, without "
        "which it masks nothing: Clustering.attach(%s",
        ", ".join(tuned.masked_sources),
        call,
    )


def tell_of_middles(manifest: Mapping[str, Any], sources: Sequence[str]) -> None:
    """Warn where communities, which rows are cut into together, are stood in for by the nearest of their middles.

    Args:
        manifest: That of the clustering.
        sources: Those of the clustering.
    """
    cut = [name for name in sources if method_of(manifest.get("method"), name) == "communities"]
    if cut:
        logger.warning(
            "%d of %d sources of the clustering are cut into communities (%s). Rows that it labels, old ones too, go "
            "to the community with the nearest middle, which need not be theirs: sizes are no longer about equal. To "
            "cut these rows: attach_clusters(dataset, encoder, method='communities', cluster_size=...)",
            len(cut),
            len(sources),
            list_few(cut),
        )
