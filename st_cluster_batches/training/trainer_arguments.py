"""The trainer's own arguments in a recipe, and the batch strategy among them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from sentence_transformers import SentenceTransformerTrainingArguments, SparseEncoderTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers, MultiDatasetBatchSamplers

from st_cluster_batches.batches.multi_dataset import ClusterMultiDatasetBatchSampler
from st_cluster_batches.batches.plan_messages import IDLE_ORDER, IDLE_SEARCH
from st_cluster_batches.batches.sampler import ClusterBatchSampler
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE
from st_cluster_batches.data.pairs import Key
from st_cluster_batches.refresh.refresher import Refresh
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.training.arguments import refuse_idle

Strategy = Literal["random", "source", "cluster", "stock"]

# What says when, or by what, a model is evaluated in its training.
_OF_EVALUATIONS = (
    *("eval_strategy", "eval_on_start", "eval_delay", "eval_steps", "eval_accumulation_steps", "batch_eval_metrics"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "do_eval", "do_predict"),
    *("eval_do_concat_batches", "eval_use_gather_object", "bf16_full_eval", "fp16_full_eval"),
    "include_for_metrics",
)
# The strategies that an option means something to.
_STRATEGIES_OF = {
    "random_fraction": ("source", "cluster"),
    "rows_per_stratum": ("cluster",),
    "source_alpha": ("random", "source", "cluster"),
}


# Of both kinds, since each trainer insists on its own; they have the same fields.
@dataclass
class TrainingArguments(SentenceTransformerTrainingArguments, SparseEncoderTrainingArguments):  # type: ignore[misc]
    """The trainer's own arguments; `batch_sampler` names a strategy."""

    batch_sampler: Strategy = field(
        default="cluster",
        metadata={
            "help": "Batch strategy: random rows, rows of one source, or of one cluster; or stock, the trainer's own "
            "random order, which keeps no false negatives apart."
        },
    )
    random_fraction: float = field(
        default=0.0, metadata={"help": "Share of the batches that is drawn across sources or clusters all the same."}
    )
    rows_per_stratum: int | None = field(
        default=None,
        metadata={"help": "Fill batches with chunks of so many rows, each of one cluster, drawn within the source."},
    )
    cluster_first: int = field(
        default=0, metadata={"help": "First epoch with batches of one cluster; before it batches are random."}
    )
    source_alpha: float = field(
        default=1.0, metadata={"help": "Of a DatasetDict: datasets are drawn in proportion to size^alpha."}
    )
    keep_false_negatives_apart: bool = field(
        default=True,
        metadata={
            "help": "Keep false negatives apart, whatever the strategy: equal texts, and with "
            "false_negative_threshold near-duplicates."
        },
    )
    refresh_every: int | None = field(
        default=None,
        metadata={"help": "Make clusters anew of the model as it is then, before every so many epochs."},
    )
    refresh_first: int = field(
        default=Refresh.first,
        metadata={"help": "First epoch with such clusters; before it batches are as batch_sampler says."},
    )
    refresh_cluster_size: int = field(default=Refresh.cluster_size, metadata={"help": "Mean rows of such a cluster."})
    refresh_key: Key = field(default=Refresh.key, metadata={"help": "Text that decides it."})
    refresh_sample: float = field(
        default=Refresh.sample,
        metadata={"help": "Share of the rows to embed anew; the others keep their vectors."},
    )
    refresh_guide: bool = field(
        default=Refresh.guide, metadata={"help": "Let a guided loss have the new vectors as guide."}
    )
    refresh_mine: int = field(
        default=Refresh.mine,
        metadata={"help": "Write so many explicit negatives of each row beside the clusters, for a next run."},
    )
    refresh_mine_margin: float = field(
        default=Refresh.mine_margin,
        metadata={"help": "Share of the positive's similarity by which they are to stay below it."},
    )
    report_to: str | None = field(default="none", metadata={"help": "Experiment trackers, as in transformers."})

    def __post_init__(self) -> None:
        for name, least in (("per_device_train_batch_size", 1), ("gradient_accumulation_steps", 1), ("seed", 0)):
            as_count(name, getattr(self, name), least)
        self.strategy: Strategy = self.batch_sampler
        self.batch_sampler = self._choose_sampler()
        given = self.multi_dataset_batch_sampler  # type: ignore[has-type]  # the host library has no types
        if self.strategy != "stock":
            if given != MultiDatasetBatchSamplers.PROPORTIONAL:  # the trainer's own default, and like ours
                raise ValueError(
                    f"multi_dataset_batch_sampler={getattr(given, 'value', given)} decides nothing with batch_sampler="
                    f"{self.strategy}: datasets take turns in whole global batches, in proportion to "
                    "size^source_alpha. Give source_alpha=0 to draw small and large ones alike, leave it out to draw "
                    "them in proportion to size, or take batch_sampler=stock"
                )
            self.multi_dataset_batch_sampler = ClusterMultiDatasetBatchSampler.configure(alpha=self.source_alpha)
        super().__post_init__()
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError(
                f"max_steps={self.max_steps} and num_train_epochs={self.num_train_epochs:g} train nothing; give "
                "num_train_epochs above 0, and max_steps above 0 or none (-1)"
            )
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate:g} trains nothing; give one above 0, such as 2e-5")
        if self.dataloader_persistent_workers and not self.dataloader_num_workers:
            raise ValueError(
                "dataloader_persistent_workers=True keeps workers, and dataloader_num_workers=0 asks for none; give "
                "dataloader_num_workers: 1, or leave dataloader_persistent_workers out"
            )
        if self.auto_find_batch_size:
            raise ValueError(IDLE_SEARCH % self.per_device_train_batch_size)
        if self.train_sampling_strategy != "random":
            raise ValueError(IDLE_ORDER % self.train_sampling_strategy)
        self._refuse_evaluations()
        firsts = {
            "cluster_first": self.cluster_first,
            "refresh_first": self.refresh_first if self.refresh_every else 0,
        }
        for name, first in firsts.items():
            if first and self.max_steps <= 0 and first >= self.num_train_epochs:
                raise ValueError(
                    f"{name}={first} is never reached: num_train_epochs={self.num_train_epochs:g}, counted from 0; "
                    "train for more epochs, or lower it"
                )

    def _refuse_evaluations(self) -> None:
        """Refuse what is said of evaluations during the training."""
        stock = {name: type(self).__dataclass_fields__[name].default for name in _OF_EVALUATIONS}
        defaults: dict[str, Any] = {**stock, "include_for_metrics": []}  # which a factory makes
        given = {name: getattr(self, name) for name in defaults if getattr(self, name) != defaults[name]}
        if self.save_strategy == "best":
            given["save_strategy"] = self.save_strategy
        for name, value in given.items():
            raise ValueError(
                f"{name}={getattr(value, 'value', value)} needs an eval_dataset, and no recipe has one; leave it out, "
                "and give eval_tasks or held_out_queries, evaluated at the end"
            )

    def _choose_sampler(self) -> Any:
        """Return what fills batches as the strategy says, until clusters of the model itself do, if they are to."""
        refresh = self._read_refresh()
        as_count("cluster_first", self.cluster_first, least=0)
        if self.cluster_first and self.strategy != CLUSTER:
            raise ValueError(
                f"cluster_first={self.cluster_first} decides nothing with batch_sampler={self.strategy}: it says from "
                "which epoch on batches are of one cluster; take batch_sampler=cluster"
            )
        if refresh is not None and self.cluster_first > refresh.first:
            raise ValueError(
                f"refresh_first={refresh.first} makes clusters that no batch is of before cluster_first="
                f"{self.cluster_first}; give refresh_first={self.cluster_first}"
            )
        # Clusters to come are strata for random and single-source batches too: from then on they are as for `cluster`.
        is_clustered = refresh is not None and self.strategy in ("random", "source")
        refuse_idle(self, "batch_sampler", CLUSTER if is_clustered else self.strategy, _STRATEGIES_OF)
        if self.strategy == "stock":
            return BatchSamplers.BATCH_SAMPLER
        before: dict[Strategy, tuple[str, ...]] = {"random": (), "source": (SOURCE,)}
        strata: Any = before.get(self.strategy)  # the sampler's own default for clusters
        if self.cluster_first:
            strata = {0: (), self.cluster_first: (SOURCE, CLUSTER)}
        elif refresh is not None and strata is not None:
            strata = {0: strata, refresh.first: (SOURCE, CLUSTER)} if refresh.first else (SOURCE, CLUSTER)
        return ClusterBatchSampler.configure(
            strata=strata,
            distinct=FALSE_NEGATIVE_KEYS if self.keep_false_negatives_apart else None,
            random_fraction=self.random_fraction,
            rows_per_stratum=self.rows_per_stratum,
            refresh=refresh,
        )

    def refuse_idle_refresh(self, given: Collection[str]) -> None:
        """Refuse what says how clusters are refreshed where they are not.

        Args:
            given: The keys of a recipe that say something of a refresh.

        Raises:
            ValueError: If there are any, and no refresh.
        """
        if given and (self.refresh_every is None or self.strategy == "stock"):
            raise ValueError(
                f"{', '.join(given)} of the recipe decide nothing with refresh_every={self.refresh_every} and "
                f"batch_sampler={self.strategy}: a refresh needs refresh_every, and any other batch_sampler than stock"
            )

    def _read_refresh(self) -> Refresh | None:
        names = [one.name for one in fields(self) if one.name.startswith("refresh_")]
        self.refuse_idle_refresh(
            [name for name in names if getattr(self, name) != type(self).__dataclass_fields__[name].default]
        )
        if self.refresh_every is None:
            return None
        return Refresh(
            self.refresh_first,
            self.refresh_every,
            self.refresh_cluster_size,
            self.refresh_key,
            self.refresh_sample,
            guide=self.refresh_guide,
            mine=self.refresh_mine,
            mine_margin=self.refresh_mine_margin,
        )
