"""What decides clusters and labels beside the data and the encoder, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from st_cluster_batches.clusters.choice import METHODS, Choice, Method, method_of
from st_cluster_batches.clusters.metis import require_metis
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.naming import list_few
from st_cluster_batches.data.pairs import KEYS, Key, PairOptions
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.storage.numbers import as_count, as_number

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BATCHES_IN_A_CLUSTER = 8  # global batches that a cluster of `n_clusters="auto"` holds: about 1 in 16 rows is pooled
_DEFAULT_CLUSTERS = 10
_DEFAULT_BATCH = 1024
_DEFAULT_KEY: Key = "query"
_DEFAULT_NITER = 20


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """What decides the clusters beside the data and the encoder.

    Args:
        n_clusters: k of every source; 10, as in arXiv 2407.18887, unless `cluster_size` is given. `auto` lets a
            cluster hold eight global batches.
        cluster_size: Mean rows of a cluster, which sets k source by source; or a mapping from each source to its own,
            where None makes the source one stratum.
        max_cluster_size: Rows of a cluster at most; larger ones are split, but for a source of one stratum.
        global_batch_size: Rows of a global batch, for `auto`.
        key: The text that decides the cluster: query, passage, or both.
        seed: Seed of the clusters.
        niter: Iterations of k-means.
        method: How clusters are made: `kmeans`, or `communities` of that size (see `find_communities`), for which
            queries and passages are embedded, whatever the key; or a mapping from each source to its own.
    """

    n_clusters: int | Literal["auto"] | None = None
    cluster_size: int | Mapping[str, int | None] | None = None
    max_cluster_size: int | None = None
    global_batch_size: int = _DEFAULT_BATCH
    key: Key = _DEFAULT_KEY
    seed: int = 0
    niter: int = _DEFAULT_NITER
    method: Method | Mapping[str, Method] = "kmeans"

    def __post_init__(self) -> None:
        methods = self.method.values() if isinstance(self.method, Mapping) else [self.method]
        if unknown := set(methods) - set(METHODS):
            raise ValueError(f"method={min(unknown)!r} is none of {', '.join(map(repr, METHODS))}")
        if self.has_communities:
            require_metis()
            if self.max_cluster_size is not None:
                raise ValueError(
                    f"max_cluster_size={self.max_cluster_size} splits clusters of k-means; communities are about equal"
                )
        if self.key not in KEYS:
            raise ValueError(f"key={self.key!r} is none of {', '.join(map(repr, KEYS))}")
        if self.n_clusters is not None and self.cluster_size is not None:
            raise ValueError(
                f"n_clusters={self.n_clusters} and cluster_size={self.cluster_size} exclude each other; give one"
            )
        if isinstance(self.n_clusters, str) and self.n_clusters != "auto":
            raise ValueError(f"n_clusters={self.n_clusters!r} is neither a number nor 'auto'")
        for name in ("n_clusters", "max_cluster_size", "global_batch_size", "niter"):
            value = getattr(self, name)
            if value is not None and value != "auto":
                # Numbers of numpy become Python's, so that they can be written into a manifest.
                object.__setattr__(self, name, as_count(name, value))
        self._check_cluster_size()
        self._refuse_idle()
        if self.n_clusters != "auto" and self.global_batch_size != _DEFAULT_BATCH:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is for n_clusters='auto' alone, and means nothing beside "
                f"n_clusters={self.n_clusters}; pass n_clusters='auto', or leave it out"
            )
        object.__setattr__(self, "seed", as_count("seed", self.seed, least=-(1 << 63)))
        if not 0 <= self.seed < 1 << 31:
            raise ValueError(f"seed={self.seed} must be in [0, 2^31): FAISS takes a negative one for the clock")

    def _refuse_idle(self) -> None:
        """Refuse what decides clusters of k-means alone, if k-means cuts no source."""
        if self.has_kmeans:
            return
        instead = "every source is one stratum, of random batches"
        if self.has_communities:
            instead = "communities are cut from queries and passages alike, in one go"
        for name, default in (("key", _DEFAULT_KEY), ("niter", _DEFAULT_NITER)):
            if (value := getattr(self, name)) != default:
                raise ValueError(
                    f"{name}={value!r} decides clusters of k-means, and there are none: {instead}; leave {name} out"
                )

    def _check_cluster_size(self) -> None:
        """Make Python's own counts of the sizes, and refuse a limit that leaves them nothing to decide."""
        sizes: dict[str, int | None] = {}
        if isinstance(self.cluster_size, Mapping):
            sizes = {
                str(name): None if rows is None else as_count(f"cluster_size of {name!r}", rows)
                for name, rows in self.cluster_size.items()
            }
            object.__setattr__(self, "cluster_size", sizes)
            if self.max_cluster_size is not None and not any(sizes.values()):
                raise ValueError(
                    f"max_cluster_size={self.max_cluster_size} splits clusters, and there are none: all of "
                    f"{', '.join(sizes)} is one stratum, of random batches, as cluster_size= or tuned= says; leave "
                    "max_cluster_size out"
                )
        elif self.cluster_size is not None:
            sizes = {"": as_count("cluster_size", self.cluster_size)}
            object.__setattr__(self, "cluster_size", sizes[""])
        if self.max_cluster_size is not None and any((mean or 0) > self.max_cluster_size for mean in sizes.values()):
            if not isinstance(self.cluster_size, Mapping):
                what, remedy = f"cluster_size={self.cluster_size}", "give the smaller number as cluster_size"
            else:
                name = max(sizes, key=lambda name: sizes[name] or 0)
                what = f"cluster_size= or tuned=, {sizes[name]} for {name!r}"
                remedy = f"leave max_cluster_size out, or give {sizes[name]} or more"
            raise ValueError(
                f"max_cluster_size={self.max_cluster_size} is below the mean of {what}, so every cluster would be "
                f"split, and the mean decide nothing; {remedy}"
            )

    def check_sources(self, names: Iterable[str]) -> None:
        """Raise a ValueError if sizes are given by source, and one has none."""
        for option in ("cluster_size", "method"):
            given = getattr(self, option)
            if isinstance(given, Mapping) and (unknown := sorted(set(names) - set(given))):
                raise ValueError(
                    f"{option} says nothing of the source {unknown[0]!r}, only of {list(given)}; add it, or tune on "
                    "data that has it: st-cluster-batches tune DATA --encoder E --output DIR"
                )

    def refuse_strange(self, names: Iterable[str]) -> None:
        """Raise a ValueError if something is given for a source that the data have not."""
        known = sorted(set(names))
        for option in ("cluster_size", "method"):
            given = getattr(self, option)
            if isinstance(given, Mapping) and (strange := sorted(set(map(str, given)) - set(known))):
                raise ValueError(
                    f"{option} says something of the source {strange[0]!r}, and the data have alone "
                    f"{list_few([repr(one) for one in known], 10, ', ')}; leave it out, or write it as they do"
                )

    @property
    def has_communities(self) -> bool:
        """Whether any source is cut into communities."""
        return "communities" in (self.method.values() if isinstance(self.method, Mapping) else [self.method])

    @property
    def has_kmeans(self) -> bool:
        """Whether k-means cuts any source."""
        sizes = self.cluster_size if isinstance(self.cluster_size, Mapping) else {}
        methods = self.method if isinstance(self.method, Mapping) else dict.fromkeys(sizes or [""], self.method)
        return any(one == "kmeans" and sizes.get(name, 1) is not None for name, one in methods.items())

    def find_method(self, source: str) -> Method:
        """Return how the clusters of a source are made."""
        return method_of(self.method, source)

    def find_limit(self, source: str) -> int | None:
        """Return the rows of a cluster of a source at most; None where it is one stratum, or there is no limit."""
        is_whole = isinstance(self.cluster_size, Mapping) and self.cluster_size[source] is None
        return None if is_whole else self.max_cluster_size

    def count_clusters(self, n_rows: int, source: str) -> int:
        """Return k for a source of `n_rows` rows."""
        if isinstance(self.cluster_size, Mapping):
            size = self.cluster_size[source]
            return 1 if size is None else max(1, round(n_rows / size))
        size = self.cluster_size
        if self.n_clusters == "auto":
            size = _BATCHES_IN_A_CLUSTER * self.global_batch_size
        if size is not None:
            return max(1, round(n_rows / size))
        return int(self.n_clusters or _DEFAULT_CLUSTERS)


@dataclass(frozen=True)
class AttachOptions:
    """All options of `attach_clusters` and its relatives.

    Args:
        clusters: What decides the clusters.
        columns: Query, positive, negatives, in order; the labelled dataset shows these, training labels and labels. By
            default those that a trainer would take, in its order, unless names that people use say another one.
        source_column: Column that names the source of a row; renamed to `source`. The default one may be absent.
            None takes all rows for one source, and leaves a column `source` where it is, as text.
        false_negative_threshold: Passages of one cluster whose cosine similarity under the encoder is above it are
            false negatives of one another. None: equal texts alone. Costs the embedding of the passages where `key`
            is the query.
        truncate_dim: Keep the first so many dimensions of a vector, as Matryoshka models allow.
        batch_size: Texts that the encoder sees at once; by the kind of encoder if None.
        overwrite: Whether to replace label columns that the dataset has.
        cache_dir: Where embeddings, centroids and labels are kept; a folder in the datasets cache by default.
        show_progress_bar: Whether to show progress.
        trust_remote_code: Whether code that comes with the encoder may run.
        guide: Whether to embed queries, positives and negatives, and to give every row its key, a column `label` by
            which a guided loss finds their vectors.
        guide_model: The model whose vectors these are; by default the encoder. One that knows more than the model to
            be trained masks better, where that wants clusters of its own vectors. Asks for a guide by itself.
        tuned: What `tune` chose: sizes of clusters by source, and a guide if it masks anywhere. If it masks in some
            sources only, the row keys of the others carry a mark: a guided loss masks nothing for their queries.
    """

    clusters: ClusterOptions = field(default_factory=ClusterOptions)
    _: KW_ONLY
    columns: Columns | None = None
    source_column: str | None = SOURCE
    false_negative_threshold: float | None = None
    truncate_dim: int | None = None
    batch_size: int | None = None
    overwrite: bool = False
    cache_dir: str | Path | None = None
    show_progress_bar: bool = True
    trust_remote_code: bool = False
    guide: bool = False
    guide_model: str | Path | SentenceTransformer | None = None
    tuned: Choice | None = None

    def __post_init__(self) -> None:
        if self.tuned is not None:
            object.__setattr__(self, "clusters", _follow(self.clusters, self.tuned))
        for name in ("truncate_dim", "batch_size"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_count(name, value))
        threshold = self.false_negative_threshold
        if threshold is not None and not 0 < as_number("false_negative_threshold", threshold) < 1:
            raise ValueError(f"false_negative_threshold={threshold} must be in (0, 1)")
        if threshold is not None:
            object.__setattr__(self, "false_negative_threshold", float(threshold))

    @property
    def keeps_vectors(self) -> bool:
        """Whether a guide's vectors are kept: as asked, or since the choice masks."""
        is_tuned = self.tuned is not None and bool(self.tuned.masked_sources)
        return self.guide or self.guide_model is not None or is_tuned

    @property
    def pairs(self) -> PairOptions:
        """How the pairs are to be read."""
        needs_passages = None
        if self.clusters.has_communities:
            needs_passages = "method='communities'"
        elif self.clusters.key != "query":
            needs_passages = f"key={self.clusters.key!r}"
        elif self.false_negative_threshold is not None:
            needs_passages = "false_negative_threshold="
        return PairOptions(
            self.source_column,
            overwrite=self.overwrite,
            needs_passages=needs_passages,
            columns=self.columns,
            needs_row_keys=self.keeps_vectors,
        )


def find_key(key: Key | None, tuned: Choice | None) -> Key:
    """Return the text that decides the clusters: as given, or else as tuned, or else the query."""
    return key or ("query" if tuned is None else tuned.key)


def _follow(clusters: ClusterOptions, tuned: Choice) -> ClusterOptions:
    """Return the options with the sizes that were chosen."""
    if clusters.n_clusters is not None or clusters.cluster_size not in (None, tuned.cluster_sizes):
        raise ValueError(
            f"tuned= says how large clusters are; n_clusters={clusters.n_clusters} and "
            f"cluster_size={clusters.cluster_size} are not to be given beside it"
        )
    if clusters.method not in ("kmeans", tuned.methods):
        raise ValueError(f"tuned= says how clusters are made; method={clusters.method!r} is not to be given beside it")
    # What was tried by a key may not have been chosen anywhere: then it decides nothing.
    followed = replace(clusters, cluster_size=tuned.cluster_sizes, method=tuned.methods, key=_DEFAULT_KEY)
    if clusters.key != tuned.key and (followed.has_kmeans or clusters.key != _DEFAULT_KEY):
        raise ValueError(f"key={clusters.key!r}, but tuned= was chosen by key={tuned.key!r}; leave key out")
    return replace(followed, key=tuned.key) if followed.has_kmeans else followed


def parse_n_clusters(word: str | None) -> int | Literal["auto"] | None:
    """Read k from a recipe or a command line.

    Raises:
        ValueError: If it is neither a number nor `auto`.
    """
    if word is None or word == "auto":
        return word  # type: ignore[return-value]  # mypy does not narrow a str to its literal
    if not word.lstrip("-").isdigit():
        raise ValueError(f"n_clusters={word!r} is neither a number nor 'auto'")
    return int(word)
