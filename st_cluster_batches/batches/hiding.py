"""Which columns no batch shows: labels, and what options name, but for the texts that are trained on."""

from __future__ import annotations

import logging
from collections.abc import Collection
from itertools import takewhile
from typing import TYPE_CHECKING

from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.row_keys import TARGET_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

    from st_cluster_batches.plans.options import PlanOptions

logger = logging.getLogger(__name__)


def list_hidden(dataset: Dataset, options: PlanOptions, hides_source: bool, is_trained_on: bool) -> list[str]:
    """List the columns that no batch is to show: labels of ours, and what options name.

    A column that an option names stays visible where the loss learns from it: a target, or a text that is trained on.

    Args:
        dataset: The rows, of whose columns those count that they show, in order.
        options: The columns that batches share, which are no texts unless their names say so, and those that batches
            do not repeat, which may well be texts.
        hides_source: Whether a column of sources is a label, and no text.
        is_trained_on: Whether to warn of a text that may be a negative.
    """
    from st_cluster_batches.data.role_names import has_role_name, list_surely_trained  # samplers know no roles else

    labels = {CLUSTER, FALSE_NEGATIVE_KEYS, *([SOURCE] if hides_source else [])}
    shared = {name for _, strata in options.schedule for name in strata if not has_role_name(name)}
    trained = list_surely_trained([name for name in _list_shown_texts(dataset) if name not in labels | shared])
    hidden = labels | {*options.columns} - {*trained, *TARGET_COLUMNS}
    if is_trained_on:
        _warn_of_texts(dataset, options.distinct, hidden)
    return sorted(hidden)


def _warn_of_texts(dataset: Dataset, distinct: Collection[str], hidden: Collection[str]) -> None:
    """Warn of hidden columns that stand among the texts that are trained on, and so may be negatives.

    What stands behind the labels that `attach_clusters` writes was put there later, for options to name.
    """
    before = {*takewhile(lambda name: name not in (CLUSTER, FALSE_NEGATIVE_KEYS), dataset.column_names)}
    texts = [name for name in _list_shown_texts(dataset) if name in before - {SOURCE}]
    if doubtful := [name for name in texts if name in distinct and name in hidden]:
        logger.warning(
            "distinct= takes the text %s for keys alone, which no batch shows. If it is a negative to be trained on, "
            "say so by its name: rename_column(%r, 'negative')",
            " and ".join(map(repr, doubtful)),
            doubtful[0],
        )


def _list_shown_texts(dataset: Dataset) -> list[str]:
    from st_cluster_batches.data.roles import list_texts  # as above

    return list_texts({name: dataset.features[name] for name in dataset.format["columns"]})
