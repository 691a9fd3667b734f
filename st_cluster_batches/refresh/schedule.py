"""When, and how, clusters are made anew of the model that is being trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from st_cluster_batches.batches.protocols import PlannedSampler, Refresher
from st_cluster_batches.columns import CLUSTER
from st_cluster_batches.data.pairs import KEYS, Key
from st_cluster_batches.plans.options import PlanOptions
from st_cluster_batches.storage.numbers import as_count, as_number

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from st_cluster_batches.plans.batch_plan import BatchPlan

    Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class RefreshOptions(ABC):
    """The options of `Refresh`, which says what they mean, checked."""

    first: int = 1
    every: int = 1
    cluster_size: int = 100
    key: Key = "query"
    sample: float = 1.0
    niter: int = 10
    seed: int = 0
    guide: bool = False
    batch_size: int | None = None
    mine: int = 0
    mine_margin: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (("first", 0), ("every", 1), ("cluster_size", 1), ("niter", 1), ("seed", 0), ("mine", 0)):
            object.__setattr__(self, name, as_count(name, getattr(self, name), least=least))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", as_count("batch_size", self.batch_size))
        if self.key not in KEYS:
            raise ValueError(f"key={self.key!r} is none of {', '.join(map(repr, KEYS))}")
        for name in ("sample", "mine_margin"):
            object.__setattr__(self, name, as_number(name, getattr(self, name)))
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample={self.sample} must be in (0, 1]: the share of the rows that is embedded anew")
        if self.guide and self.sample < 1:
            raise ValueError(f"guide=True needs the vectors of all rows; sample={self.sample} leaves old ones")
        if self.mine and self.sample < 1:
            raise ValueError(f"mine={self.mine} needs the vectors of all rows; sample={self.sample} leaves old ones")
        if not 0 <= self.mine_margin < 1 or (self.mine_margin != type(self).mine_margin and not self.mine):
            raise ValueError(
                f"mine_margin={self.mine_margin} must be in [0, 1), beside the number of negatives, mine={self.mine}"
            )

    def describe(self) -> dict[str, Any]:
        """Return what decides the clusters, as JSON values: mining changes no batch."""
        return {name: one for name, one in asdict(self).items() if not name.startswith("mine")}

    def check_strata(self, options: PlanOptions) -> None:
        """Raise a ValueError if no batch shares the clusters that are to be made, or the first ones."""
        if CLUSTER not in options.columns:
            raise ValueError(
                f"refresh= makes clusters, but strata= names no column {CLUSTER!r} that batches share; name it, such "
                f"as strata={{0: ('source',), {self.first or 1}: ('source', 'cluster')}}, or leave refresh= away"
            )
        if not self.is_used(options, self.first):
            starts = (first for first, columns in options.schedule if first > self.first and CLUSTER in columns)
            later = next(starts, None)
            where, mend = "only before", "let a later stage name 'cluster'"
            if later is not None:
                where, mend = f"from epoch {later} on", f"give Refresh(first={later})"
            raise ValueError(
                f"Refresh(first={self.first}, every={self.every}) makes clusters that no batch shares: strata="
                f"{options.strata} names 'cluster' {where}; {mend}"
            )

    def is_used(self, options: PlanOptions, epoch: int) -> bool:
        """Whether clusters made at the start of an epoch are read by a batch, by the loss, or by a next run."""
        served = range(epoch, epoch + self.every)
        return bool(self.guide or self.mine) or any(CLUSTER in options.strata_of(one) for one in served)

    def find_epoch(self, epoch: int, options: PlanOptions) -> int | None:
        """Return the epoch at whose start the clusters of an epoch are made; None before the first.

        None are made that nothing would read: those of the last time stay.
        """
        latest = epoch - (epoch - self.first) % self.every
        return next((one for one in range(latest, self.first - 1, -self.every) if self.is_used(options, one)), None)

    @abstractmethod
    def make_refresher(self, trainer: Any) -> Refresher:
        """Make what embeds and clusters with the model of a trainer."""


class RefreshedSampler(PlannedSampler, Protocol):
    """One whose clusters are made of the model as it is."""

    @property
    def refresh(self) -> RefreshOptions:
        """When they are made."""

    def find_refresh(self, epoch: int) -> int | None:
        """Return the epoch at whose start the clusters of an epoch are made; None before the first."""

    def make_plan(self, strata: tuple[str, ...], clusters: Integers | None) -> BatchPlan:
        """Make a plan of batches that share some columns, perhaps with other clusters than those of the dataset."""

    def relabel(self, epoch: int, clusters: Integers) -> None:
        """Fill batches from other clusters from now on."""
