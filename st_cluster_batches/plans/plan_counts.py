"""What an epoch is made of, counted before training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanCounts:
    """What an epoch is made of, known before training.

    Args:
        global_batch_size: Rows of a global batch.
        pure: Global batches of one stratum, or of chunks of one stratum each.
        pooled: Global batches of neighbouring strata in one source, or with a chunk of these.
        mixed: Global batches of leftovers from several sources.
        random: Global batches drawn across all strata on purpose.
        last: Rows of a final short batch.
        dropped: Rows in no batch.
        repeats: Rows that conflict with one placed earlier in their global batch, which then does, too.
        given_up: Pure batches that strata fill too few different texts for: their rows are in pooled ones instead.
        chunks: Chunks of one stratum, or of neighbours, that batches are made of; 0 where they are not.
        pure_chunks: Those of one stratum.
    """

    global_batch_size: int
    pure: int
    pooled: int
    mixed: int
    random: int
    last: int
    dropped: int
    repeats: int
    given_up: int = 0
    chunks: int = 0
    pure_chunks: int = 0

    @property
    def planned(self) -> int:
        """Count the global batches that strata decide."""
        return self.pure + self.pooled + self.mixed

    @property
    def is_one_batch(self) -> bool:
        """Whether one global batch holds all rows, be it a last short one, so that strata decide nothing."""
        return not self.dropped and self.planned + self.random + bool(self.last) == 1

    @property
    def pure_share(self) -> float:
        """Return which share of the batches that strata decide, or of their chunks, they fill, given-up ones too."""
        pure = self.pure_chunks / self.chunks if self.chunks else self.pure / max(self.planned, 1)
        return pure + self.given_up / max(self.planned, 1)

    def __str__(self) -> str:
        kinds = {"pure": self.pure, "neighbour-pooled": self.pooled, "source-mixed": self.mixed, "random": self.random}
        total = max(sum(kinds.values()), 1)
        shares = ", ".join(f"{count:,} {kind} ({count / total:.1%})" for kind, count in kinds.items())
        repeats = f"; at least {self.repeats:,} rows meet a false negative" if self.repeats else ""
        if self.chunks:
            shares += f"; {self.pure_chunks:,} of {self.chunks:,} chunks pure ({self.pure_chunks / self.chunks:.1%})"
        if self.given_up:
            repeats += f"; {self.given_up:,} pure batches were given up to keep false negatives apart"
        return (
            f"{sum(kinds.values()):,} global batches of {self.global_batch_size:,} rows: {shares}; {self.last:,} rows "
            f"in a last short batch; {self.dropped:,} rows dropped{repeats}"
        )
