"""Whether what is attached is what was tuned: its sources, sizes, texts, encoder and mask."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.options import AttachOptions
from st_cluster_batches.data.pairs import Pairs

logger = logging.getLogger(__name__)

_FAR = 5  # times the rows that sizes were tuned on, from which on a source is another one


def check_sources(tuned: Choice, parts: Sequence[Pairs]) -> None:
    """Raise a ValueError if the data have sources that nothing was chosen for."""
    if unknown := sorted({name for part in parts for name in part.sources} - set(tuned.sources)):
        raise ValueError(
            f"tuned= says nothing of {', '.join(map(repr, unknown))}, only of {', '.join(map(repr, tuned.sources))}; "
            "tune on data that have all of them: st-cluster-batches tune DATA --encoder E --output DIR, or attach "
            "the others apart, with a cluster_size"
        )


def compare_choice(options: AttachOptions, tuned: Choice, encoder: Encoder, parts: Sequence[Pairs]) -> None:
    """Warn where what was tuned is not what is done."""
    counts = {name: int((part.source_of_row == at).sum()) for part in parts for at, name in enumerate(part.sources)}
    tried = {name: tuned.evidence.get(name, {}).get("tuned_rows", n_rows) for name, n_rows in counts.items()}
    sized = [name for name in counts if tuned.sources[name].cluster_size is not None]
    if far := [name for name in sized if counts[name] >= _FAR * tried[name]]:
        logger.warning(
            "The sizes of clusters were tuned on a small part of the rows that they are for: %s. In so large a source "
            "clusters of a size are finer topics than those that were tried; tune on more of it: tune(..., "
            "max_rows=%d), or --max_rows",
            ", ".join(f"on {tried[name]:,} of {counts[name]:,} of {name}" for name in far),
            max(counts[name] for name in far) // _FAR + 1,
        )
    for part in parts:
        for name in part.sources:
            tried_on = tuned.evidence.get(name, {}).get("columns", part.text_columns[:2])
            if tried_on != part.text_columns[:2]:
                logger.warning(
                    "The choice for %r was tuned on query and passage %s, these are %s; name the same ones by "
                    "columns=, or tune on these",
                    name,
                    tried_on,
                    part.text_columns[:2],
                )
    if tuned.encoder_hash != encoder.fingerprint:
        logger.warning(
            "The choice was tuned with clusters of %s, these are of %s%s: its sizes may not be the best here; tune "
            "with this encoder",
            tuned.encoder,
            encoder.name,
            "" if encoder.truncate_dim is None else f" with truncate_dim={encoder.truncate_dim}",
        )
    if tuned.masked_sources and not options.guide:  # whoever asks for a guide knows what for
        logger.warning(
            "The choice masks false negatives of %s%s, and the rows get the keys that a guide needs. The gain that "
            "was measured needs a guided loss: GuidedMultipleNegativesRankingLoss(model, guide=train, margin=%g), or "
            "`loss: guided`",
            ", ".join(tuned.masked_sources),
            " alone" if tuned.unmasked_sources else "",
            tuned.margin,
        )
