"""Say which texts make rows meet their false negatives, and what helps."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.columns import FALSE_NEGATIVE_KEYS, LABEL_COLUMNS
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import read_labels
from st_cluster_batches.plans.plan_counts import PlanCounts
from st_cluster_batches.row_keys import list_targets

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_CROSSED = "explicit negatives of some rows are the positives of others"  # why rows may not meet that share no text


@dataclass(frozen=True)
class Crossings:
    """Explicit negatives that are positives of other rows, which these rows may therefore not meet.

    Args:
        rows: Rows that have such a negative.
        positives: Rows of which the commonest of these texts is the positive.
        negatives: Rows that have that text as an explicit negative.
        text: That text, cut.
        is_main: Whether more pairs of rows conflict by such texts than by a query or positive that they share.
    """

    rows: int
    positives: int
    negatives: int
    text: str
    is_main: bool

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows have another row's positive among their explicit negatives (most often "
            f"{self.text!r}, the positive of {self.positives:,}, a negative of {self.negatives:,})"
        )


def find_largest_key(dataset: Dataset, keys: Keys) -> tuple[int, str, str]:
    """Find the key that most rows hold as a query or positive; if none holds for two, that which most rows hold.

    Args:
        dataset: The rows, hidden columns or not.
        keys: Their keys.

    Returns:
        How many rows hold it so, what it is to them, and a text. Keys of near-duplicates and of the user's own stand
        for no one text: there it is the first one of a row.
    """
    held = keys.drop_negatives()
    counted = keys if held is None else held
    key = int(np.bincount(counted.keys).argmax())
    rows = counted.rows[counted.keys == key]
    return len(rows), *_name_text(dataset, [int(rows[0]), int(rows[1])])


def find_crossings(dataset: Dataset, keys: Keys) -> Crossings | None:
    """Find the explicit negatives that are positives of other rows; None if there is none.

    Args:
        dataset: The rows, hidden columns or not.
        keys: Their keys.
    """
    if keys.is_negative is None:
        return None
    n_keys = int(keys.keys.max()) + 1
    positives, negatives = (
        np.bincount(keys.keys[which], minlength=n_keys) for which in (~keys.is_negative, keys.is_negative)
    )
    key = int(negatives.argmax())
    holders = [int(keys.rows[(keys.keys == key) & which][0]) for which in (~keys.is_negative, keys.is_negative)]
    return Crossings(
        rows=len(np.unique(keys.rows[keys.is_negative])),
        positives=int(positives[key]),
        negatives=int(negatives[key]),
        text=_name_text(dataset, holders)[1][:80],
        is_main=bool((positives * negatives).sum() > (positives * (positives - 1) // 2).sum()),
    )


def _name_text(dataset: Dataset, rows: list[int]) -> tuple[str, str]:
    """Return what two rows with one key share, in words, and the text."""
    from st_cluster_batches.data.duplicates import fold_text  # samplers know no texts else

    table = dataset.with_format(None)[rows]
    texts = {
        name: values for name, values in table.items() if isinstance(values[0], str) and name not in LABEL_COLUMNS
    }
    folded = {name: [fold_text(value) for value in values] for name, values in texts.items()}
    for name, values in folded.items():
        if values[0] == values[-1]:
            return f"the {name}", texts[name][0]
    for name, (first, *_) in folded.items():  # the positive of one may be a negative of the other
        if any(first == values[-1] for values in folded.values()):
            return "the text", texts[name][0]
    first_text = next((values[0] for values in texts.values()), f"row {rows[0]}")
    return "a key without a text of its own, as near-duplicates do, such as", first_text


def explain_repeats(plan: BatchPlan, dataset: Dataset, counts: PlanCounts, is_guided: bool) -> str:
    """Say how many rows meet a false negative, why, and what helps, beside a loss that masks if there is none yet."""
    keys = plan.labels.keys
    assert keys is not None, "without keys no row repeats any"
    crossings = find_crossings(dataset, keys)
    at_random = plan.across_strata().plan_epoch(0).counts.repeats
    is_crossed = crossings is not None and crossings.is_main
    why = f"{_CROSSED if is_crossed else 'too few texts are different'}. Smaller batches help"
    if 2 * at_random <= counts.repeats:
        where = f"within a source or cluster {_CROSSED}"
        where = where if is_crossed else "a source or cluster holds too few different texts"
        why = (
            f"{where}: of random batches {at_random:,} rows would. Batches across sources and clusters help "
            "(strata=()), or smaller ones"
        )
    share = 100 * counts.repeats / len(dataset)
    mask = ", and so does a loss that masks false negatives, such as the guided ones (attach with guide=True)"
    mask = ", and the guided loss masks those that its guide finds nearer than the positive" if is_guided else mask
    return (
        f"at least {counts.repeats:,} of {len(dataset):,} rows ({share:.1f} %) meet a false negative in a global "
        f"batch of {counts.global_batch_size:,} rows: {why}{mask}. {_name_culprits(dataset, keys, crossings)}"
    )


def _name_culprits(dataset: Dataset, keys: Keys, crossings: Crossings | None) -> str:
    """Say which texts part most rows, that which parts more of them first."""
    named = [str(crossings)] if crossings else []
    if keys.drop_negatives() is not None:
        n_rows, what, text = find_largest_key(dataset, keys)
        named.insert(bool(crossings and crossings.is_main), f"{n_rows:,} rows share {what} {text[:100]!r}")
    return ", and ".join(named)


def tell_of_missing_keys(sampler: PlannedSampler, name: str | None) -> None:
    """Warn of equal texts that nothing keeps apart, since the rows have no keys, though batches are to heed them.

    Args:
        sampler: A `ClusterBatchSampler` of pairs without labels of their own.
        name: That of its dataset, if there are several.
    """
    from st_cluster_batches.data.roles import list_texts  # samplers know no roles else

    dataset, distinct = sampler.dataset, sampler.options.distinct
    if not distinct or list_targets(dataset):
        return
    if FALSE_NEGATIVE_KEYS in dataset.column_names:
        if FALSE_NEGATIVE_KEYS not in distinct:
            _tell_of_keys_left_aside(dataset, distinct)
        return
    if FALSE_NEGATIVE_KEYS not in distinct:
        return
    texts = [name for name in list_texts(dataset.features) if name in sampler.shown_columns]
    repeated = {}
    for text in texts[:2]:
        column = dataset.with_format("arrow", columns=[text])[:][text]
        repeated[text] = len(column) - pc.count_distinct(column).as_py()
    if not any(repeated.values()):
        return
    logger.warning(
        "%s has no column %r, so equal texts may meet in a batch and count as negatives: %s. "
        "attach_keys(dataset) adds it; distinct=None says that they may meet",
        "The dataset" if name is None else f"Dataset {name!r}",
        FALSE_NEGATIVE_KEYS,
        ", ".join(f"{count:,} of {len(dataset):,} rows repeat a {text}" for text, count in repeated.items() if count),
    )


def _tell_of_keys_left_aside(dataset: Dataset, distinct: tuple[str, ...]) -> None:
    """Warn of rows that share a text, where batches heed other keys in place of those that would part them."""
    keys = read_labels(dataset, (), (FALSE_NEGATIVE_KEYS,)).keys
    if keys is None:
        return
    logger.warning(
        "%d of %d rows share a text by the column %r, which distinct=%r leaves aside: they may meet in a batch, and "
        "count as negatives. Name both: distinct=%r",
        len(np.unique(keys.rows)),
        len(dataset),
        FALSE_NEGATIVE_KEYS,
        distinct[0] if len(distinct) == 1 else distinct,
        (FALSE_NEGATIVE_KEYS, *distinct),
    )
