"""Say which texts make rows meet their false negatives, and what helps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from st_cluster_batches.batches.keys import Keys
from st_cluster_batches.batches.labels import read_labels
from st_cluster_batches.batches.plan import BatchPlan
from st_cluster_batches.batches.plan_counts import PlanCounts
from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.columns import FALSE_NEGATIVE_KEYS, LABEL_COLUMNS
from st_cluster_batches.row_keys import list_targets

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def find_largest_key(dataset: Dataset, keys: Keys) -> tuple[int, str, str]:
    """Find the key that most rows hold, and the text that it stands for.

    Args:
        dataset: The rows, hidden columns or not.
        keys: Their keys.

    Returns:
        How many rows hold it, what it is to them, and a text. Keys of near-duplicates and of the user's own stand for
        no one text: there it is the first one of a row.
    """
    from st_cluster_batches.data.duplicates import fold_text  # samplers know no texts else

    key = int(np.bincount(keys.keys).argmax())
    rows = keys.rows[keys.keys == key]
    table = dataset.with_format(None)[rows[:2].tolist()]
    texts = {
        name: values for name, values in table.items() if isinstance(values[0], str) and name not in LABEL_COLUMNS
    }
    folded = {name: [fold_text(value) for value in values] for name, values in texts.items()}
    for name, values in folded.items():
        if values[0] == values[-1]:
            return len(rows), f"the {name}", texts[name][0]
    for name, (first, *_) in folded.items():  # the positive of one may be a negative of the other
        if any(first == values[-1] for values in folded.values()):
            return len(rows), "the text", texts[name][0]
    first_text = next((values[0] for values in texts.values()), f"row {rows[0]}")
    return len(rows), "a key without a text of its own, as near-duplicates do, such as", first_text


def explain_repeats(plan: BatchPlan, dataset: Dataset, counts: PlanCounts, is_guided: bool) -> str:
    """Say how many rows meet a false negative, why, and what helps, beside a loss that masks if there is none yet."""
    keys = plan.labels.keys
    assert keys is not None, "without keys no row repeats any"
    n_rows, what, text = find_largest_key(dataset, keys)
    at_random = plan.across_strata().plan_epoch(0).counts.repeats
    why = "too few texts are different. Smaller batches help"
    if 2 * at_random <= counts.repeats:
        why = (
            f"a source or cluster holds too few different texts: of random batches {at_random:,} rows would. Batches "
            "across sources and clusters help (strata=()), or smaller ones"
        )
    share = 100 * counts.repeats / len(dataset)
    mask = ", and so does a loss that masks false negatives, such as the guided ones (attach with guide=True)"
    mask = ", and the guided loss masks those that its guide finds nearer than the positive" if is_guided else mask
    return (
        f"at least {counts.repeats:,} of {len(dataset):,} rows ({share:.1f} %) meet a false negative in a global "
        f"batch of {counts.global_batch_size:,} rows: {why}{mask}. {n_rows:,} rows share {what} {text[:100]!r}"
    )


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
    for name in texts[:2]:
        column = dataset.with_format("arrow", columns=[name])[:][name]
        repeated[name] = len(column) - pc.count_distinct(column).as_py()
    if not any(repeated.values()):
        return
    logger.warning(
        "%s has no column %r, so equal texts may meet in a batch and count as negatives: %s. "
        "attach_keys(dataset) adds it; distinct=None says that they may meet",
        "The dataset" if name is None else f"Dataset {name!r}",
        FALSE_NEGATIVE_KEYS,
        ", ".join(f"{count:,} of {len(dataset):,} rows repeat a {name}" for name, count in repeated.items() if count),
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
