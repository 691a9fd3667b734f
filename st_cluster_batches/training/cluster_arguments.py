"""Parameters of one run: how its pairs are clustered."""

from __future__ import annotations

from dataclasses import dataclass, field

from st_cluster_batches.clusters.choice import Method, find_choice
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions, find_key, parse_n_clusters
from st_cluster_batches.data.pairs import Key

AUTO = "auto"  # for `tuned`: to be tuned by `compare` on the training pairs


@dataclass
class ClusterArguments:
    """How to cluster; used where batches come from clusters."""

    encoder: str | None = field(
        default=None,
        metadata={"help": "Model that embeds the pairs, `static:` before it distils it. Default: the trained one."},
    )
    n_clusters: str | None = field(
        default=None, metadata={"help": "Clusters of each source; 10 by default. `auto`: eight global batches each."}
    )
    cluster_size: int | None = field(default=None, metadata={"help": "Mean rows of a cluster, instead of n_clusters."})
    method: Method = field(
        default="kmeans",
        metadata={"help": "How clusters are made: by k-means, or as communities."},
    )
    tuned: str | None = field(default=None, metadata={"help": "Output of `tune`; `auto` lets `compare` tune."})
    communities: bool = field(default=False, metadata={"help": "Let `tuned: auto` try communities too; needs METIS."})
    max_cluster_size: int | None = field(default=None, metadata={"help": "Split clusters of more rows."})
    global_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of a global batch, for `n_clusters: auto`; by default those of the run."}
    )
    false_negative_threshold: float | None = field(
        default=None, metadata={"help": "Similarity from which on passages count as false negatives of one another."}
    )
    truncate_dim: int | None = field(default=None, metadata={"help": "Dimensions to keep of the encoder's vectors."})
    key: Key | None = field(default=None, metadata={"help": "Text that decides the cluster; as tuned, or the query."})
    cluster_seed: int = field(default=0, metadata={"help": "Seed of the clusters; the run's own seed is `seed`."})
    encoder_batch_size: int | None = field(
        default=None, metadata={"help": "Texts that the encoder sees at once; by the kind of encoder if absent."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where embeddings, centroids and labels are kept."})
    guide: bool = field(
        default=False, metadata={"help": "Keep the vectors of all texts, as the guided losses need and ask for."}
    )

    def __post_init__(self) -> None:
        self.options()
        given = [name for name in ("n_clusters", "cluster_size") if getattr(self, name) is not None]
        given += [] if self.method == "kmeans" else ["method"]
        if self.tuned == AUTO and given:  # a choice would say so too, but only once it has been made
            raise ValueError(f"tuned: auto says how clusters are made; leave {' and '.join(given)} out")
        if self.communities and self.tuned != AUTO:
            raise ValueError(
                "communities: true is for tuned: auto, which may choose them; method: communities takes them unasked"
            )

    def options(
        self,
        columns: list[str] | None = None,
        show_progress_bar: bool = True,
        guide: bool = False,
        global_batch_size: int = ClusterOptions.global_batch_size,
    ) -> AttachOptions:
        """Return the options of attaching clusters, checked.

        Args:
            columns: Those of the data.
            show_progress_bar: Whether to show progress.
            guide: Whether the loss needs the vectors.
            global_batch_size: That of the run, which `n_clusters: auto` goes by unless it is told another.
        """
        tuned = None if self.tuned == AUTO else find_choice(self.tuned)
        default = global_batch_size if self.n_clusters == "auto" else ClusterOptions.global_batch_size
        return AttachOptions(
            ClusterOptions(
                n_clusters=parse_n_clusters(self.n_clusters),
                cluster_size=self.cluster_size,
                max_cluster_size=self.max_cluster_size,
                global_batch_size=default if self.global_batch_size is None else self.global_batch_size,
                key=find_key(self.key, tuned),
                seed=self.cluster_seed,
                method=self.method,
            ),
            columns=columns,
            false_negative_threshold=self.false_negative_threshold,
            truncate_dim=self.truncate_dim,
            batch_size=self.encoder_batch_size,
            cache_dir=self.cache_dir,
            show_progress_bar=show_progress_bar,
            # Said for the run, which tells of a loss that does not mask: attaching need not.
            guide=guide or self.guide or (tuned is not None and bool(tuned.masked_sources)),
            tuned=tuned,
        )
