"""What `tune` chose: how the batches of each source are to be filled, and what speaks for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from st_cluster_batches.data.pairs import KEYS, Key
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.numbers import as_count, as_number

logger = logging.getLogger(__name__)

CHOICE_FILE = "choice.json"

Method = Literal["kmeans", "communities"]
METHODS: tuple[Method, ...] = ("kmeans", "communities")

# recipes/in_domain/results/models.md: whole epochs of batches of 16, eight sources.
FOR_TRANSFORMERS = (
    "In batches of 16 communities of 32 rows (method: communities, cluster_size: 32) brought two layers of MiniLM "
    "+3.5 % nDCG@10; clusters of 32, 8 rows of each in a batch (rows_per_stratum: 8), three transformers +1.6 to "
    "+1.9 %; what static models chose -.1 to +.7 %"
)
# Whole epochs, as by default: in 200 steps the whole MiniLM showed none of the gain that it had in one.
ASK_THE_MODEL = "tune --proxy model, which takes hours without a GPU"

_VERSION = 2  # of the file


@dataclass(frozen=True, order=True)
class Candidate:
    """A way to fill the batches of a source.

    Args:
        cluster_size: Mean rows of a cluster; None for one stratum, whose batches are random rows of the source.
        masked: Whether the loss masks negatives that the stored vectors take for false ones.
        margin: How much more similar than the positive a negative must be to count as false.
        method: How clusters of that size are made: `kmeans`, or `communities`.
        rows_per_stratum: Rows of each cluster in a batch of several; None for batches of one cluster.
    """

    cluster_size: int | None = None
    masked: bool = False
    margin: float = 0.0
    method: Method = "kmeans"
    rows_per_stratum: int | None = None

    def __post_init__(self) -> None:
        if self.cluster_size is not None:
            object.__setattr__(self, "cluster_size", as_count("cluster_size", self.cluster_size))
        if self.rows_per_stratum is not None:
            object.__setattr__(self, "rows_per_stratum", as_count("rows_per_stratum", self.rows_per_stratum))
            if self.cluster_size is None:
                raise ValueError(f"rows_per_stratum={self.rows_per_stratum} of one stratum is nothing but random rows")
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is none of {', '.join(map(repr, METHODS))}")
        if not -1 <= as_number("margin", self.margin) <= 1:
            raise ValueError(f"margin={self.margin} must be in [-1, 1]: it is a difference of cosine similarities")

    def __str__(self) -> str:
        kind = "communities" if self.method == "communities" else "clusters"
        name = "random" if self.cluster_size is None else f"{kind} of {self.cluster_size:,}"
        if self.rows_per_stratum is not None:
            name += f", {self.rows_per_stratum:,} rows of each"
        return f"{name}, masked" if self.masked else name

    def describe(self) -> dict[str, Any]:
        """Return it as JSON values; batches of one cluster go without saying, as before there were others."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("rows_per_stratum", None)}


@dataclass(frozen=True)
class Choice:
    """What is chosen for each source, with the evidence.

    Args:
        sources: The chosen way by name of source.
        batch_size: Rows of a batch that it was chosen for.
        encoder: Name of the model whose vectors were clustered.
        encoder_hash: Hash of its weights and settings.
        key: The text that decided the clusters.
        evidence: By source what was measured: every candidate's difference to random batches, with its interval.
        about: How it was measured: data, model, seeds, versions.
    """

    sources: Mapping[str, Candidate]
    batch_size: int
    encoder: str
    encoder_hash: str
    key: Key = "query"
    evidence: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cluster_sizes(self) -> dict[str, int | None]:
        """Rows of a cluster by source, as `ClusterOptions` takes them."""
        return {name: one.cluster_size for name, one in self.sources.items()}

    @property
    def methods(self) -> dict[str, Method]:
        """How clusters are made by source, as `ClusterOptions` takes them."""
        return {name: one.method for name, one in self.sources.items()}

    @property
    def rows_per_stratum(self) -> int | None:
        """Rows of each cluster in a batch, as `ClusterBatchSampler` takes them: one number for all sources."""
        return next((one.rows_per_stratum for one in self.sources.values() if one.rows_per_stratum), None)

    @property
    def masked_sources(self) -> list[str]:
        """The sources whose false negatives the loss is to mask."""
        return [name for name, one in self.sources.items() if one.masked]

    @property
    def margin(self) -> float | None:
        """The margin of the mask, the largest if sources differ; None where nothing is masked."""
        return max((self.sources[name].margin for name in self.masked_sources), default=None)

    @property
    def guide_model(self) -> str | None:
        """The model whose vectors mask, where it is another one than the encoder."""
        return self.about.get("guide_model") if self.masked_sources else None

    @property
    def unmasked_sources(self) -> frozenset[str]:
        """The sources whose rows are to mask nothing while others do."""
        if not self.masked_sources:  # then a guide is the user's own idea, and masks
            return frozenset()
        return frozenset(name for name, one in self.sources.items() if not one.masked)

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {"version": _VERSION, **asdict(self)}

    def save(self, directory: str | Path) -> Path:
        """Write `choice.json` into a folder, and return its path."""
        path = Path(directory) / CHOICE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(self.describe(), indent=2, ensure_ascii=False) + "\n")
        return path

    @classmethod
    def load(cls, directory: str | Path) -> Choice:
        """Read a choice that `save` wrote, or `tune` into its output folder.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file holds anything else.
        """
        path = Path(directory)
        path = path / CHOICE_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"{directory} holds no {CHOICE_FILE}; make one: st-cluster-batches tune DATA --encoder E --output DIR"
            )
        try:
            return cls.read(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no choice of this version: {error}; tune again") from error

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Choice:
        """Make a choice of what `describe` returned.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: If the values are of anything else.
        """
        if values["version"] != _VERSION:
            raise ValueError(f"it has version {values['version']}, known is {_VERSION}")
        sources = {name: Candidate(**one) for name, one in values["sources"].items()}
        if len({one.rows_per_stratum for one in sources.values() if one.cluster_size is not None}) > 1:
            raise ValueError("its sources differ in rows_per_stratum, and a batch plan has one for all")
        if values["key"] not in KEYS:
            raise ValueError(f"key={values['key']!r} is none of {', '.join(map(repr, KEYS))}")
        return cls(sources, **{one.name: values[one.name] for one in fields(cls) if one.name != "sources"})


def method_of(given: Method | Mapping[str, Method] | None, source: str) -> Method:
    """Return how the clusters of a source are made, as options or a manifest say; k-means where they do not."""
    method = given.get(source) if isinstance(given, Mapping) else given
    return "kmeans" if method is None else method


def find_choice(tuned: Choice | str | Path | None) -> Choice | None:
    """Return a choice that is given as such or by its folder."""
    return tuned if tuned is None or isinstance(tuned, Choice) else Choice.load(tuned)


def find_tuned(manifest: Mapping[str, Any]) -> Choice | None:
    """Return the choice that a clustering was made by, if its manifest names one."""
    return Choice.read(manifest["tuned"]) if "tuned" in manifest else None


def tell_of_chunks(tuned: Choice | None) -> None:
    """Warn where labels are for batches of several clusters, which only a sampler can fill."""
    if tuned is not None and tuned.rows_per_stratum is not None:
        logger.warning(
            "The choice fills a batch with %d rows of each cluster, which labels cannot say. Tell the sampler: "
            "ClusterBatchSampler.configure(rows_per_stratum=choice.rows_per_stratum); or give the recipe `tuned:`, or "
            "`rows_per_stratum: %d`",
            tuned.rows_per_stratum,
            tuned.rows_per_stratum,
        )
