"""What modules here need of the sampler, whose module imports them, and of what refreshes its clusters.

Clusters of the model that is trained are made in `refresh/`, which knows models and texts; here is when they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from st_cluster_batches.plans.batch_plan import BatchPlan, EpochPlan
    from st_cluster_batches.plans.options import PlanOptions
    from st_cluster_batches.plans.plan_counts import PlanCounts

    Integers = npt.NDArray[np.integer[Any]]


class Refresher(Protocol):
    """Gives samplers the clusters of the model that is trained."""

    @property
    def place(self) -> Path:
        """Where it keeps them."""

    def start(self, epoch: int, samplers: Sequence[Any]) -> None:
        """Check, as training begins or goes on with an epoch, what is needed later."""

    def refresh(self, samplers: Sequence[Any], epoch: int, is_start: bool) -> None:
        """Give the samplers the clusters of an epoch, of which no step has been done if it `is_start`."""

    def list_records(self, number: int) -> list[dict[str, Any]]:
        """Return what was made for a dataset, by its number, as JSON values."""


class RefreshSchedule(Protocol):
    """When clusters are made of the model that is trained."""

    @property
    def first(self) -> int:
        """The first epoch with such clusters."""

    def describe(self) -> dict[str, Any]:
        """Return what decides the clusters, as JSON values."""

    def check_strata(self, options: PlanOptions) -> None:
        """Raise a ValueError if no batch shares them."""

    def find_epoch(self, epoch: int, options: PlanOptions) -> int | None:
        """Return the epoch at whose start the clusters of an epoch are made; None before the first."""

    def make_refresher(self, trainer: Any) -> Refresher:
        """Make what makes them of a trainer's model."""


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
    def refresh(self) -> RefreshSchedule | None:
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
