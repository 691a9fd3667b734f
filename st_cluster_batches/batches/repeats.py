"""Say which texts make rows meet their false negatives, and what helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from st_cluster_batches.batches.filling import PlanCounts
from st_cluster_batches.batches.keys import Keys
from st_cluster_batches.columns import LABEL_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset


def find_largest_key(dataset: Dataset, keys: Keys) -> tuple[int, str, str]:
    """Find the key that most rows hold, and the text that it stands for.

    Args:
        dataset: The rows, hidden columns or not.
        keys: Their keys.

    Returns:
        How many rows hold it, the column of its text, and the text. Keys of near-duplicates and of the user's own
        stand for no one text: there the first text of a row.
    """
    key = int(np.bincount(keys.keys).argmax())
    rows = keys.rows[keys.keys == key]
    table = dataset.with_format(None)[rows[:2].tolist()]
    is_text = {name: isinstance(values[0], str) and name not in LABEL_COLUMNS for name, values in table.items()}
    texts = {name: table[name] for name in table if is_text[name]}
    folded = {name: [" ".join(value.lower().split()) for value in values] for name, values in texts.items()}
    same = [name for name, values in folded.items() if values[0] == values[-1]]
    name = next(iter([*same, *texts]), "")
    return len(rows), name, texts[name][0] if name else f"row {rows[0]}"


def explain_repeats(dataset: Dataset, keys: Keys | None, counts: PlanCounts) -> tuple[Any, ...]:
    """Return the arguments of a log line on rows that meet a false negative: how many, why, and what helps."""
    assert keys is not None, "without keys no row repeats any"
    n_rows, column, text = find_largest_key(dataset, keys)
    return (
        "%d of %d rows (%.1f %%) meet a false negative in a global batch of %d rows, since too few texts are "
        "different: %d rows share the %s %r. Smaller batches help, and so does a loss that masks false negatives, "
        "such as the guided ones (attach with guide=True)",
        counts.repeats,
        len(dataset),
        100 * counts.repeats / len(dataset),
        counts.global_batch_size,
        n_rows,
        column,
        text[:100],
    )
