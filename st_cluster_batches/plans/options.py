"""What batches share, what they are not to repeat, and how many of them are random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from st_cluster_batches.columns import CLUSTER, SOURCE
from st_cluster_batches.storage.numbers import as_count, as_number

Strata = str | Sequence[str] | Mapping[int, Sequence[str]]
Distinct = str | Sequence[str]


def check_alpha(alpha: float) -> None:
    """Check an exponent of the sizes of datasets.

    Raises:
        ValueError: If it is negative, or no number.
    """
    if not 0 <= as_number("alpha", alpha) < float("inf"):
        raise ValueError(f"alpha={alpha} must not be negative: 1 is proportional to size, 0 uniform")


class StartError(ValueError):
    """A run that cannot start, or go on, as it is told: found once the trainer knows its checkpoint and its data."""


@dataclass(frozen=True)
class PlanOptions:
    """The options of a `ClusterBatchSampler`, checked.

    Args:
        schedule: (first epoch, columns) pairs: from which epoch on a batch shares which columns.
        distinct: Columns of keys that a global batch repeats only where it must, perhaps none.
        random_fraction: Share of the global batches that is drawn across all strata.
        rows_per_stratum: Fill a batch with chunks of so many rows, each of one stratum; None for one stratum a batch.
        names_strata: Whether someone has said what batches share; `source` is in the default only where it is a label.
    """

    schedule: tuple[tuple[int, tuple[str, ...]], ...]
    distinct: tuple[str, ...]
    random_fraction: float
    rows_per_stratum: int | None = None
    names_strata: bool = True

    @classmethod
    def check(
        cls,
        strata: Strata | None,
        distinct: Distinct | None,
        random_fraction: float,
        rows_per_stratum: int | None = None,
    ) -> PlanOptions:
        """Check options as users write them.

        Strata of None are those of the paper, `(source, cluster)`; empty ones let any rows meet: random batches.

        Raises:
            ValueError: If one has no meaning.
        """
        names_strata = strata is not None
        if strata is None:
            strata = (SOURCE, CLUSTER)
        given = strata if isinstance(strata, Mapping) else {0: strata}
        stages = {as_count("first epoch in strata", epoch, least=0): columns for epoch, columns in given.items()}
        schedule = tuple(
            (epoch, (columns,) if isinstance(columns, str) else tuple(columns))
            for epoch, columns in sorted(stages.items())
        )
        if not schedule or not all(name and isinstance(name, str) for _, columns in schedule for name in columns):
            raise ValueError(
                f"strata={strata!r} must name label columns, such as ('source', 'cluster'), or none at all: () is one "
                "stratum of all rows"
            )
        if schedule[0][0] != 0:
            raise ValueError(f"strata={strata!r} must say what batches share from epoch 0 on")
        if not 0 <= as_number("random_fraction", random_fraction) < 1:
            raise ValueError(
                f"random_fraction={random_fraction} must be in [0, 1); for random batches alone pass strata=()"
            )
        if random_fraction and not any(columns for _, columns in schedule):
            raise ValueError(
                f"random_fraction={random_fraction} means nothing beside strata=(): all batches are random"
            )
        if rows_per_stratum is not None:
            rows_per_stratum = as_count("rows_per_stratum", rows_per_stratum)
            if not any(columns for _, columns in schedule):
                raise ValueError(f"rows_per_stratum={rows_per_stratum} means nothing beside strata=(): there are none")
        check_chunks(rows_per_stratum, None, random_fraction)
        distinct = (distinct,) if isinstance(distinct, str) else tuple(distinct or ())
        if not all(name and isinstance(name, str) for name in distinct):
            raise ValueError(f"distinct={distinct!r} must name columns of keys; None lets any rows meet")
        return cls(schedule, distinct, float(random_fraction), rows_per_stratum, names_strata)

    @property
    def strata(self) -> dict[int, tuple[str, ...]] | None:
        """The strata as `check` takes them."""
        return dict(self.schedule) if self.names_strata else None

    @property
    def arguments(self) -> dict[str, Any]:
        """What `check` takes, by name."""
        names = ("strata", "distinct", "random_fraction", "rows_per_stratum")
        return {name: getattr(self, name) for name in names}

    @property
    def named(self) -> list[str]:
        """The columns that someone has named."""
        return self.columns if self.names_strata else list(self.distinct)

    def without_source(self) -> PlanOptions:
        """Return the same options where the column `source` is no label: unless they name it, they leave it alone."""
        return self if self.names_strata else replace(self, schedule=((0, (CLUSTER,)),))

    @property
    def columns(self) -> list[str]:
        """All label columns that any epoch uses."""
        names = [name for _, columns in self.schedule for name in columns]
        return list(dict.fromkeys([*names, *self.distinct]))

    @property
    def needed(self) -> set[str]:
        """The columns without which batches are in the stock order: the finest strata, or keys where any rows meet."""
        return {columns[-1] for _, columns in self.schedule if columns} or set(self.distinct)

    def strata_of(self, epoch: int) -> tuple[str, ...]:
        """Return what a batch shares in an epoch."""
        return [columns for first, columns in self.schedule if first <= epoch][-1]


def check_chunks(rows_per_stratum: int | None, global_size: int | None, random_fraction: float) -> None:
    """Check that batches can be filled with chunks of so many rows of a stratum.

    Args:
        rows_per_stratum: Rows of a chunk, or None.
        global_size: Rows of a global batch; None where it is not known yet.
        random_fraction: Share of the global batches that is drawn across all strata.

    Raises:
        ValueError: If they cannot.
    """
    if rows_per_stratum is None:
        return
    if random_fraction:
        raise ValueError(
            f"rows_per_stratum={rows_per_stratum} and random_fraction={random_fraction} exclude each other: batches "
            "of several strata are mixed already"
        )
    if global_size is not None and (rows_per_stratum < 1 or global_size % rows_per_stratum):
        raise ValueError(
            f"rows_per_stratum={rows_per_stratum} must divide the {global_size} rows of a global batch "
            f"(per_device_train_batch_size x devices); the nearest is {find_divisor(global_size, rows_per_stratum)}"
        )


def check_own_chunks(rows_per_stratum: int | None, batch_size: int, global_size: int) -> None:
    """Check that the rows of one device are whole chunks, where its loss sees no others: they are its batch.

    Args:
        rows_per_stratum: Rows of a chunk, or None.
        batch_size: Rows of a batch on one device.
        global_size: Rows of a global batch.

    Raises:
        ValueError: If they are not.
    """
    if rows_per_stratum is not None and global_size % rows_per_stratum == 0 and batch_size % rows_per_stratum:
        raise ValueError(
            f"rows_per_stratum={rows_per_stratum} must divide the {batch_size} rows of one device "
            "(per_device_train_batch_size), since the loss takes negatives from these alone: they would be of fewer "
            "strata than the global batch, or of parts of chunks. Take a loss with gather_across_devices=True, or "
            f"rows_per_stratum={find_divisor(batch_size, rows_per_stratum)}"
        )


def find_divisor(size: int, near: int) -> int:
    """Return the divisor of a size that is nearest to a number, and leaves more than one chunk."""
    divisors = [one for one in range(1, size // 2 + 1) if size % one == 0]
    return min(divisors or [1], key=lambda one: abs(one - near))


def refuse_arguments(call: str, misplaced: Sequence[Any], unknown: Mapping[str, Any]) -> None:
    """Refuse what a `configure` does not take.

    Args:
        call: The call as a trainer was given it.
        misplaced: Arguments by position: of a trainer that calls `configure` in place of what it returns.
        unknown: Arguments by names that mean nothing.

    Raises:
        TypeError: If there is any.
    """
    if misplaced or "batch_size" in unknown or "generator" in unknown:
        raise TypeError(f"{call} was passed without its call; pass {call.partition('=')[2]}(), or the class itself")
    if unknown:
        name = next(iter(unknown))
        raise TypeError(f"{call.partition('=')[2]} got an unexpected keyword argument {name!r}")
