"""What decides a choice beside the data and the models, checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.metis import require_metis
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.pairs import KEYS, Key, Pairs
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.evaluation.start import Proxy
from st_cluster_batches.storage.numbers import as_count, as_number
from st_cluster_batches.target_values import describe_targets, read_targets

logger = logging.getLogger(__name__)

# What says how the model itself is trained; counts first.
_OF_MODELS = ("n_steps", "n_layers", "max_seq_length", "bf16", "learning_rate")


@dataclass(frozen=True)
class TuneOptions:
    """What decides a choice beside the data and the models.

    Args:
        batch_size: Rows among which a loss takes its negatives: candidates are sized by it.
        key: The text that decides the clusters, or several to choose from.
        columns: Query and positive, in order.
        source_column: Column that names the source of a row; None takes all rows for one source.
        guide: Whether to try each candidate with a mask of false negatives too, by vectors of both sides.
        margin: That of the mask.
        n_seeds: Runs of each candidate.
        n_epochs: Times that a run sees each pair; once by default.
        max_rows: Rows to take of each source at most, at random.
        seed: Seed of what is taken and held out.
        proxy: What is trained: `static` token embeddings, or the `model` itself, by the stock trainer.
        n_steps: Steps of a run of the model itself, in place of epochs.
        n_layers: Keep the first so many transformer layers of the model itself; all by default.
        max_seq_length: Tokens that the model itself reads of a text; as many as it is made for by default.
        bf16: Whether the model itself is trained and run in bfloat16 where that is safe (autocast).
        learning_rate: That of the model itself, for all candidates; by default it is chosen for each.
        communities: Whether to try communities too, which are cut from the vectors of both sides.
        n_workers: Processes that run trials, each on one core; 2 by default, and 1 where a GPU trains the model
            itself, which several small models may share.
    """

    batch_size: int
    key: Key | Sequence[Key] = "query"
    columns: Columns | None = None
    source_column: str | None = SOURCE
    guide: bool = False
    margin: float = 0.0
    n_seeds: int = 3
    n_epochs: int | None = None
    max_rows: int = 12_000
    seed: int = 0
    n_workers: int | None = None
    proxy: Proxy = "static"
    n_steps: int | None = None
    n_layers: int | None = None
    max_seq_length: int | None = None
    bf16: bool = False
    learning_rate: float | None = None
    communities: bool = False

    def __post_init__(self) -> None:
        if not self.keys or not set(self.keys) <= set(KEYS):
            raise ValueError(f"key={self.key!r} is none of {', '.join(map(repr, KEYS))}, nor several of them")
        if self.proxy not in ("static", "model"):
            raise ValueError(f"proxy={self.proxy!r} is neither 'static' nor 'model'")
        for name, least in (
            ("batch_size", 2),
            ("n_seeds", 2),
            ("max_rows", 1),
            ("seed", 0),
        ):
            object.__setattr__(self, name, as_count(name, getattr(self, name), least=least))
        for name in ("n_workers", "n_epochs", *_OF_MODELS[:3]):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_count(name, value))
        Candidate(margin=self.margin)
        if self.margin and not self.guide:
            raise ValueError(
                f"margin={self.margin:g} is that of a mask, and without a guide there is none: pass guide=True "
                "(--guide), or leave it out"
            )
        if self.learning_rate is not None and not 0 < as_number("learning_rate", self.learning_rate) < 1:
            raise ValueError(f"learning_rate={self.learning_rate} must be in (0, 1), such as 2e-5")
        if self.proxy == "static" and (idle := [name for name in _OF_MODELS if getattr(self, name)]):
            raise ValueError(
                f"{', '.join(idle)} mean nothing with proxy='static'; pass proxy='model' to train the model itself"
            )
        if self.n_steps and self.n_epochs:
            raise ValueError(
                f"n_steps={self.n_steps} and n_epochs={self.n_epochs} both say how long a run is; leave one out"
            )
        if self.communities:
            require_metis()

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys to choose from, each once."""
        return (self.key,) if isinstance(self.key, str) else tuple(dict.fromkeys(self.key))

    @property
    def length(self) -> dict[str, int]:
        """How long a run is, in `steps` or in `epochs`."""
        return {"steps": self.n_steps} if self.n_steps else {"epochs": self.n_epochs or 1}


def check_part(part: Pairs) -> None:
    """Check that a dataset is trained on with in-batch negatives, and say what of it is not used.

    Raises:
        ValueError: If it has labels or scores.
    """
    where = f"Dataset {part.name!r}" if part.name else "The dataset"
    if part.targets:
        values = read_targets(part.given, part.targets)
        raise ValueError(
            f"{where} has {describe_targets(values)}: losses of labelled pairs take no in-batch negatives, so batches "
            f"change nothing. To tune on the pairs that belong together: {values[0].call}, and so on for others of "
            f"{part.targets}; on the command line --positive_label {values[0].label}"
        )
    if negatives := part.text_columns[2:]:
        logger.warning("%s: trials take no explicit negatives; %s are left aside", where, negatives)
