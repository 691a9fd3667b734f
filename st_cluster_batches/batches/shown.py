"""What batches show beside what the loss is about: columns that joined after the labels, and those of evaluation sets.

A collator takes every column that it is shown for text, or for the target, whatever it was meant for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.data_collator import BaseDataCollator

from st_cluster_batches.batches.protocols import PlannedSampler
from st_cluster_batches.batches.targets import refuse_row_keys
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, list_parts
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS, TARGET_COLUMNS, check_targets

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def check_shown(trainer: Any, dataset: Dataset, shown: Sequence[str], where: str) -> None:
    """Check that a trainer's collator can take what a training set shows, and warn of texts that no keys know.

    Args:
        trainer: The trainer; None outside of one, where nobody knows the collator.
        dataset: One of its training sets.
        shown: The columns that the collator takes for texts.
        where: How messages call the dataset.

    Raises:
        ValueError: If a column holds numbers, there are two targets, or row keys where the loss looks for a target;
            with the call that takes it away.
    """
    refuse_row_keys(trainer, dataset)
    if trainer is None or not isinstance(trainer.data_collator, BaseDataCollator):
        return
    where = where[0].upper() + where[1:]
    check_targets(dataset.format["columns"], where)
    for name, told in _list_numbers(dataset, shown):
        raise ValueError(
            f"{where} shows the column {name!r}, which holds {told}: that is no text, and the collator takes it for "
            f"one. Take it away: dataset.remove_columns({name!r})"
        )
    behind = dropwhile(lambda name: name not in (CLUSTER, FALSE_NEGATIVE_KEYS), dataset.column_names)
    late = [name for name in behind if name in shown]
    if late and FALSE_NEGATIVE_KEYS in dataset.column_names:
        logger.warning(
            "%s shows the text %s, which joined after the labels: it is text %d of %d that the loss sees, and "
            "false_negative_keys do not know it, so that false negatives may meet. Take it away, "
            "dataset.remove_columns(%r), or label anew with it: attach_clusters(dataset, encoder, overwrite=True)",
            where,
            " and ".join(map(repr, late)),
            shown.index(late[0]) + 1,
            len(shown),
            late[0],
        )


def check_evaluation(trainer: Any, samplers: Sequence[PlannedSampler]) -> None:
    """Check that evaluation sets show what training shows, in its order: columns are left out by `attach_clusters`.

    Args:
        trainer: The trainer; None outside of one.
        samplers: Those of its training sets.

    Raises:
        ValueError: If one shows a column of numbers, on which the run would end at its first evaluation.
    """
    if trainer is None or not samplers or not isinstance(trainer.data_collator, BaseDataCollator):
        return
    hidden = {name for sampler in samplers for name in sampler.hidden_columns}
    trained = list(dict.fromkeys(name for sampler in samplers for name in sampler.shown_columns))
    sets, evaluates = trainer.eval_dataset, trainer.args.eval_strategy != "no" or trainer.args.eval_on_start
    for dataset in list_parts(sets):
        if not hasattr(dataset, "features") or not hasattr(dataset, "format"):
            continue  # a stream, whose columns nobody knows before it is read
        named = [f" {name!r}" for name, one in sets.items() if one is dataset] if isinstance(sets, dict) else []
        where = "The evaluation set" + "".join(named)
        shown = [one for one in dataset.format["columns"] if one not in hidden and one not in NO_TEXT_COLUMNS]
        targets = [one for one in dataset.format["columns"] if one in TARGET_COLUMNS]
        kept = [name for name in trained if name in shown]
        remedy = f"eval_dataset.select_columns({[*kept, *targets]})"
        for name, told in _list_numbers(dataset, shown) if evaluates else ():
            raise ValueError(
                f"{where} shows the column {name!r}, which holds {told} and which training does not show: the first "
                f"evaluation would take it for text, and fail. Take what training shows: {remedy}"
            )
        has_more = len(shown) > len(trained)  # as many under other names are what training shows
        if kept and (has_more or [name for name in shown if name in trained] != kept):
            logger.warning(
                "%s shows %s, training shows %s, and a loss goes by the order of columns: eval_loss would be of other "
                "texts than those that are trained on. Take what training shows: %s",
                where,
                ", ".join(shown),
                ", ".join(trained),
                remedy,
            )


def _list_numbers(dataset: Any, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the columns of numbers or classes, or of lists of them, among some columns, with what they hold."""
    from st_cluster_batches.data.roles import describe_feature  # samplers know no roles else

    for name in names:
        told = describe_feature(dataset.features[name])
        if told.split()[-1].startswith(("int", "uint", "float", "bool", "classes")):
            yield name, told
