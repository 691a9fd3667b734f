"""Which column of a dataset is what: query, positive, negatives; by their order, by name, or as the user says."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from st_cluster_batches.column_values import is_text, looks_like_codes
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.role_names import ROLES, explain_guess, find_rank, has_role_name, order_by_name
from st_cluster_batches.row_keys import NO_TEXT_COLUMNS, TARGET_COLUMNS, check_targets
from st_cluster_batches.storage.processes import is_first_process

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Columns = Sequence[str]

TEXT = "texts"  # what a column holds that can be embedded

_INDEX = re.compile(r"unnamed: \d+|__index_level_\d+__", re.IGNORECASE)  # as pandas calls an index where it writes one
_IDS = re.compile(rf"(.*_)?(id|ids|idx)|[dqp]id|docid|docno|uuid|guid|{_INDEX.pattern}", re.IGNORECASE)


@dataclass(frozen=True)
class Roles:
    """Which columns of a dataset are what.

    Args:
        texts: Query, positive, then any negatives.
        targets: Training labels, and the name of the dataset: what a batch shows beside the texts.
        left_out: The columns that are left out, because `columns=` names others.
        guessed: What was guessed and may be wrong; empty if nothing was.
        is_in_place: Whether the rows show these texts in this order as they are.
        is_given: Whether the user has named them.
    """

    texts: tuple[str, ...]
    targets: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    guessed: str = ""
    is_in_place: bool = True
    is_given: bool = False

    @property
    def shown(self) -> list[str] | None:
        """The columns that rows are to show, or None if they show them already."""
        return None if self.is_in_place and not self.is_given else [*self.texts, *self.targets]


def find_roles(
    dataset: Dataset, columns: Columns | None = None, labels: Collection[str] = (SOURCE,), where: str = "The dataset"
) -> Roles:
    """Find out which column of a dataset is what, without reading more than a row.

    Args:
        dataset: The rows; what counts is what they show to a collator.
        columns: Query, positive, negatives in order, as the user names them; by default all texts that are shown, in
            their order, unless names that people use say another one.
        labels: The columns that are labels beside `cluster` and the keys.
        where: How messages call the dataset.

    Raises:
        ValueError: If a column is missing, holds no texts, or has no role; with the call that mends it.
        TypeError: If `columns` is no sequence of names.
    """

    def is_code(name: str) -> bool:
        is_there = name in dataset.column_names and dataset.format["type"] != "custom"
        return is_there and len(dataset) > 0 and not has_role_name(name) and looks_like_codes(dataset, name)

    return assign_roles(find_contents(dataset), columns, labels, where, dataset.column_names, is_code)


def assign_roles(
    holds: Mapping[str, str],
    columns: Columns | None,
    labels: Collection[str],
    where: str,
    column_names: Sequence[str] = (),
    is_code: Callable[[str], bool] = lambda _: False,
) -> Roles:
    """Give roles to columns by their names and what they hold.

    Args:
        holds: By name of a column that the rows show, in order, what it holds.
        columns: As for `find_roles`.
        labels: As for `find_roles`.
        where: How messages call the dataset.
        column_names: All columns of the data, shown or not.
        is_code: Whether a column of texts is not to be named as one by a message, for it looks like codes.
    """
    labels = {*labels, CLUSTER, FALSE_NEGATIVE_KEYS}
    targets = tuple(name for name in holds if name in NO_TEXT_COLUMNS)
    check_targets([name for name in targets if name not in labels], where)
    others = [name for name in holds if name not in labels and name not in targets]
    if columns is not None:
        chosen = _check_columns(columns, holds, where)
        rest = [name for name in dict.fromkeys([*holds, *column_names]) if name not in (*chosen, *targets, *labels)]
        return Roles(chosen, targets, tuple(rest), is_in_place=others == list(chosen), is_given=True)
    texts = [name for name in others if holds[name] == TEXT]
    ids = [name for name in texts if _IDS.fullmatch(name)]
    # First what surely is no text: it may be what the pairs are about, and ids only come along with it.
    for name in others:
        if name not in texts:
            named = [one for one in texts if one not in ids]
            sound = [one for one in named if not is_code(one)]
            raise ValueError(explain_fault(where, name, f"holds {holds[name]}", sound if len(sound) > 1 else named))
    for name in ids:
        sound = [one for one in texts if one == name or (one not in ids and not is_code(one))]
        raise ValueError(explain_fault(where, name, "holds ids by its name", sound if len(sound) > 2 else texts))
    if not texts:
        raise ValueError(f"{where} shows no column of text, only {list(holds)}; a query column is needed")
    ordered = tuple(order_by_name(texts))
    is_in_place = ordered == tuple(texts)
    return Roles(ordered, targets, guessed=explain_guess(ordered, texts), is_in_place=is_in_place)


def explain_fault(where: str, name: str, fault: str, texts: Sequence[str]) -> str:
    """Return the message on a column that cannot be text, with the calls that mend it."""
    remedy, is_unsure = "", False
    if _INDEX.fullmatch(name):
        remedy = (
            "That is the index of a pandas table: drop it where it is written, frame.to_parquet(..., index=False), or "
            "Dataset.from_pandas(frame, preserve_index=False). "
        )
    elif "holds codes" in fault:
        remedy = (
            f"If it says where a row comes from, name it: source_column={name!r}, on the command line --source_column "
            f"{name}, in a recipe source_column: {name}. "
        )
    elif is_unsure := "holds lists of" in fault:
        remedy = "Give each text of the list a row, or a column, of its own. "
    elif is_unsure := ("holds values" in fault or "holds classes" in fault) and not _IDS.fullmatch(name):
        remedy = (
            f"If it says which pairs belong together, keep those: dataset.filter(lambda row: row[{name!r}] == LABEL)"
            f".remove_columns({name!r}), on the command line --positive_label LABEL, for which the column is to be "
            "called 'label'. Else leave it out. "
        )
    kept = [one for one in texts if one != name]
    if len(kept) < 2 and name in texts and len(texts) > 1:
        kept = list(texts)  # to name a column is to say that it is text
    elif len(kept) < 2 or (is_unsure and not all(map(has_role_name, kept))):
        kept = ["QUERY", "POSITIVE"]
    return (
        f"{where} shows the column {name!r}, which {fault}: that is no text to be embedded and trained on. {remedy}"
        f"Say which columns are query, positive and negatives, such as columns={tuple(kept)!r}, or take it out: "
        f"dataset.remove_columns([{name!r}])"
    )


def find_contents(dataset: Dataset) -> dict[str, str]:
    """Return the columns that the rows of a dataset show, in order, and what each holds."""
    state = dataset.format
    if state["type"] == "custom":
        return {
            name: _describe_value(value)
            if value is not None or name not in dataset.features
            else describe_feature(dataset.features[name])
            for name, value in dataset[0].items()
        }
    shown = dataset.column_names if state["output_all_columns"] else state["columns"]
    return {name: describe_feature(dataset.features[name]) for name in dataset.column_names if name in shown}


def describe_feature(feature: Any) -> str:
    """Say what a column of some type holds."""
    if (inner := getattr(feature, "feature", None)) is not None:
        return f"lists of {describe_feature(inner)}"
    if isinstance(feature, dict):
        return "structs"
    kind = type(feature).__name__
    if kind != "Value":
        return {"ClassLabel": "classes"}.get(kind, f"values of type {kind}")
    return TEXT if is_text(feature.pa_type) else f"values of type {feature.dtype}"


def find_row_contents(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what the columns of a row hold, where nothing else is known of them."""
    return {name: _describe_value(value) for name, value in row.items()}


def _describe_value(value: Any) -> str:
    if isinstance(value, str):
        return TEXT
    if isinstance(value, list | tuple):
        return f"lists of {_describe_value(value[0])}" if value else "lists"
    return "structs" if isinstance(value, Mapping) else f"values of type {type(value).__name__}"


def tell_roles(found: Collection[Roles]) -> None:
    """Log which column is what, once for all datasets that are alike, in the first process of a launch."""
    if not is_first_process():
        return
    for roles in dict.fromkeys(found):
        line = describe_roles(roles.texts)
        if roles.guessed:
            logger.warning("%s: %s. %s", "Columns", line, roles.guessed)
        else:
            logger.info("%s: %s", "Columns", line)
        if roles.left_out:
            logger.info("These columns are left out: %s", ", ".join(map(repr, roles.left_out)))


def describe_roles(texts: Sequence[str]) -> str:
    """Return texts with their roles, in words."""
    parts = [f"{role} {name!r}" for role, name in zip(ROLES, texts[:2], strict=False)]
    if negatives := texts[2:]:
        parts.append(f"negative{'s' if len(negatives) > 1 else ''} {', '.join(map(repr, negatives))}")
    return ", ".join(parts)


def select_roles(dataset: Dataset, roles: Roles, labels: Sequence[str]) -> Dataset:
    """Return a dataset of texts in the order of their roles, training labels, and labels of ours.

    Args:
        dataset: The rows, without a transform.
        roles: From `find_roles`.
        labels: The labels.
    """
    return dataset.with_format(None).select_columns([*roles.texts, *roles.targets, *labels])


def read_as_columns(dataset: Dataset, texts: Sequence[str], others: Sequence[str]) -> Dataset:
    """Return a dataset without a format that has some texts as columns, as a transform makes or changes them.

    A collator gets what the transform gives, so that is what is to be embedded, compared and held out.

    Args:
        dataset: The rows.
        texts: Columns of text.
        others: Further columns to keep in that case; otherwise all are there.
    """
    from datasets import concatenate_datasets

    plain, state = dataset.with_format(None), dataset.format
    if state["type"] != "custom":
        return plain
    # `datasets` keeps what the transform gives on disk, so that no text is made twice.
    read, how = plain.select_columns(state["columns"]), {"transform": state["format_kwargs"]["transform"]}
    made = read.map(_transform, batched=True, remove_columns=read.column_names, fn_kwargs=how)
    made = made.select_columns(list(texts))
    return concatenate_datasets([made, plain.select_columns(list(others))], axis=1) if others else made


def _transform(batch: Mapping[str, Any], transform: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Apply a transform to what the collator's rows are made of: a dict, which it may change in place.

    Of what `map` passes, and gets back as it is, `datasets` would remove the columns that it had before.
    """
    return dict(transform(dict(batch)))


def list_texts(features: Mapping[str, Any]) -> list[str]:
    """List the columns of text among columns with their types."""
    return [name for name, one in features.items() if describe_feature(one) == TEXT]


def _check_columns(columns: Columns, holds: Mapping[str, str], where: str) -> tuple[str, ...]:
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise TypeError(f"columns={columns!r} must be names of columns, such as columns=('query', 'passage')")
    chosen = tuple(columns)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"columns={chosen!r} must name query, positive and any negatives, each once")
    for name in chosen:
        if name in (*TARGET_COLUMNS, "dataset_name", CLUSTER, FALSE_NEGATIVE_KEYS):
            raise ValueError(f"columns={chosen!r}: {name!r} is a label and no text; rename the column if it is one")
        if name not in holds:
            ranks = {find_rank(name), find_rank(name.removesuffix("s"))} - {None}
            alike = [one for one in holds if find_rank(one) in ranks]
            hint = f" (lists of texts become columns of their own: {name!r} is {', '.join(alike)})" if alike else ""
            raise ValueError(
                f"{where} has no column {name!r}, only {list(holds)}; columns= names those with texts{hint}"
            )
        if holds[name] != TEXT:
            raise ValueError(
                explain_fault(where, name, f"holds {holds[name]}", [one for one in chosen if one != name])
            )
    return chosen
