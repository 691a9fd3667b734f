"""Names that people give to columns of queries, positives and negatives, and what they say of the order of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

ROLES = ("query", "positive", "negative")

# Names that people give to queries, positives and negatives.
_NAMES = [
    re.compile(r"query|anchor|question|sentence_?1|text_?1"),
    re.compile(r"positive|passage|pos|answer|context|document|sentence_?2|text_?2"),
    re.compile(r"(hard_?)?(negatives?|negs?)([_-]?\d.*)?|negative.*|neg_.*"),
]


def find_rank(name: str) -> int | None:
    """Return the role that a name stands for: 0 query, 1 positive, 2 negative."""
    return next((rank for rank, names in enumerate(_NAMES) if names.fullmatch(name.lower())), None)


def has_role_name(name: str) -> bool:
    """Return whether a column has a name that people give to queries, positives or negatives."""
    return find_rank(name) is not None


def list_surely_trained(names: Sequence[str]) -> list[str]:
    """List, of columns of text, those that a loss is sure to read.

    By their names these are a query, its positive, and negatives. Where names do not tell both query and positive, the
    first two are these, as they are to a trainer.
    """
    known = order_by_name([name for name in names if has_role_name(name)])
    trained = [name for at, name in enumerate(known) if at < 2 or find_rank(name) == 2]
    return trained if {0, 1} <= {find_rank(name) for name in names} else list(dict.fromkeys([*names[:2], *trained]))


def order_by_name(texts: list[str]) -> list[str]:
    """Order texts by the names that are known, if these stand in another order than their roles."""
    ranks = [find_rank(name) for name in texts]
    known = [rank for rank in ranks if rank is not None]
    if known == sorted(known):
        return texts
    # Names that say nothing go between the first positive and the negatives.
    return sorted(texts, key=lambda name: 1.5 if (rank := find_rank(name)) is None else rank)


def explain_guess(ordered: Sequence[str], texts: Sequence[str]) -> str:
    """Say what was guessed; nothing where order and names agree."""
    said = f"columns={tuple(texts)!r}"
    if list(ordered) != list(texts):
        return f"That is by their names; they stand as {list(texts)}. If that is their order, say {said}"
    for at, name in enumerate(ordered):
        rank, role = find_rank(name), min(at, 2)
        if rank == role or (rank is None and role < 2):
            continue
        doubt = f"{name!r} is {'no name' if rank is None else 'a name'} for a {ROLES[role if rank is None else rank]}"
        return (
            f"That is by their order, though {doubt}. If it is right, say {said}, else name them in another order, or "
            "fewer of them"
        )
    return ""
