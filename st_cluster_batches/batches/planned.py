"""What the other modules need of a `ClusterBatchSampler`, whose module imports them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from st_cluster_batches.batches.filling import PlanCounts
    from st_cluster_batches.batches.options import PlanOptions
    from st_cluster_batches.batches.plan import BatchPlan, EpochPlan
    from st_cluster_batches.batches.refresh import Refresh

    Integers = npt.NDArray[np.integer[Any]]


class PlannedSampler(Protocol):
    """A sampler whose batches follow a plan."""

    dataset: Any
    batch_size: int
    world_size: int
    epoch: int
    options: PlanOptions
    hidden_columns: list[str]
    refreshed_at: int | None

    @property
    def refresh(self) -> Refresh | None:
        """When clusters of the model as it is are made, if they are."""

    @property
    def shown_columns(self) -> list[str]:
        """The columns that a collator takes for texts."""

    @property
    def is_planned(self) -> bool:
        """Whether batches follow a plan."""

    @property
    def plan(self) -> BatchPlan:
        """The plan of the current epoch."""

    @property
    def counts(self) -> PlanCounts:
        """What the current epoch is made of."""

    @property
    def clusters(self) -> Integers | None:
        """(n,) the clusters that the current epoch's batches are of."""

    def describe(self) -> dict[str, Any]:
        """Return what decides the plan, as JSON values."""

    def strata_of(self, epoch: int) -> tuple[str, ...]:
        """Return the columns that batches of an epoch share."""

    def plan_of(self, epoch: int) -> BatchPlan:
        """Return the plan of an epoch."""

    def plan_epoch(self) -> EpochPlan:
        """Return the batches of the current epoch."""


class RefreshedSampler(PlannedSampler, Protocol):
    """One whose clusters are made of the model as it is."""

    @property
    def refresh(self) -> Refresh:
        """When they are made."""

    def find_refresh(self, epoch: int) -> int | None:
        """Return the epoch at whose start the clusters of an epoch are made; None before the first."""

    def make_plan(self, strata: tuple[str, ...], clusters: Integers | None) -> BatchPlan:
        """Make a plan of batches that share some columns, perhaps with other clusters than those of the dataset."""

    def relabel(self, epoch: int, clusters: Integers) -> None:
        """Fill batches from other clusters from now on."""
