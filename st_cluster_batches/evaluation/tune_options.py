"""What decides a choice beside the data and the models, checked."""

from __future__ import annotations

from dataclasses import dataclass

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.metis import require_metis
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.pairs import Key
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.evaluation.start import Proxy
from st_cluster_batches.storage.numbers import as_count


@dataclass(frozen=True)
class TuneOptions:
    """What decides a choice beside the data and the models.

    Args:
        batch_size: Rows of a global batch: candidates are sized by it.
        key: The text that decides the clusters.
        columns: Query and positive, in order.
        source_column: Column that names the source of a row; None takes all rows for one source.
        guide: Whether to embed the passages too, and to try each candidate with a mask of false negatives.
        margin: That of the mask.
        n_seeds: Runs of each candidate.
        n_epochs: Times that a run sees each pair.
        max_rows: Rows to take of each source at most, at random.
        seed: Seed of what is taken and held out.
        proxy: What is trained: `static` token embeddings, or the `model` itself, by the stock trainer.
        n_steps: Steps of a run of the model itself.
        communities: Whether to try communities too, which are cut from the vectors of both sides.
        n_workers: Processes that run trials, each on one core.
    """

    batch_size: int
    key: Key = "query"
    columns: Columns | None = None
    source_column: str | None = SOURCE
    guide: bool = False
    margin: float = 0.0
    n_seeds: int = 3
    n_epochs: int = 1
    max_rows: int = 12_000
    seed: int = 0
    n_workers: int = 2
    proxy: Proxy = "static"
    n_steps: int = 200
    communities: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("batch_size", 2),
            ("n_seeds", 2),
            ("n_epochs", 1),
            ("max_rows", 1),
            ("seed", 0),
            ("n_workers", 1),
            ("n_steps", 1),
        ):
            object.__setattr__(self, name, as_count(name, getattr(self, name), least=least))
        Candidate(margin=self.margin)
        if self.proxy not in ("static", "model"):
            raise ValueError(f"proxy={self.proxy!r} is neither 'static' nor 'model'")
        if self.communities:
            require_metis()
        if self.communities and not self.guide:
            raise ValueError("communities=True needs the vectors of both sides: guide=True embeds them")
        if self.proxy == "model" and self.guide:
            raise ValueError("guide=True with proxy='model': masks are tried with static models alone; leave one out")
