"""Parameters of one run: which pairs, which model, which loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.collection import Judging
from st_cluster_batches.losses.guidance import TEACHER_SCALE, Margin, MarginStrategy, check_guidance
from st_cluster_batches.storage.numbers import as_count

Loss = Literal["mnrl", "cached_mnrl", "guided", "cached_guided", "gist", "cached_gist", "splade"]

# The losses that an option of a recipe means something to.
_GIST = ("gist", "cached_gist")
_GUIDED = ("guided", "cached_guided")
_CONTRASTIVE = ("mnrl", "cached_mnrl", *_GUIDED)
LOSSES_OF: dict[str, tuple[str, ...]] = {
    "guide_model": (*_GIST, *_GUIDED),
    "margin": (*_GIST, *_GUIDED),
    "margin_strategy": (*_GIST, *_GUIDED),
    "contrast_anchors": _GIST,
    "contrast_positives": _GIST,
    "teacher_weight": _GUIDED,
    "teacher_scale": _GUIDED,
    "directions": _CONTRASTIVE,
    "partition_mode": _CONTRASTIVE,
    "hardness_mode": _CONTRASTIVE,
    "hardness_strength": _CONTRASTIVE,
    "mini_batch_size": ("cached_mnrl", "cached_guided", "cached_gist"),
    "query_regularizer_weight": ("splade",),
    "document_regularizer_weight": ("splade",),
}


def refuse_idle(options: Any, key: str, value: str, readers: Mapping[str, Sequence[str]]) -> None:
    """Refuse options of a recipe that what was chosen does not read.

    Args:
        options: A dataclass of options.
        key: The one that chooses, such as `loss`.
        value: What was chosen.
        readers: By option, the values of `key` that it means something to; all values for one that is not there.

    Raises:
        ValueError: If such an option is not at its default.
    """
    for one in fields(options):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        given = getattr(options, one.name)
        if one.name in readers and value not in readers[one.name] and given != default:
            raise ValueError(
                f"{one.name}={given!r} means nothing to {key}={value!r}, only to {', '.join(readers[one.name])}: take "
                f"one of these, or leave {one.name} out"
            )


def _check_counts(options: Any, **least: int) -> None:
    """Refuse options of a recipe that are no whole numbers, or less than the least that has a meaning."""
    for name, number in least.items():
        if (given := getattr(options, name)) is not None:
            as_count(name, given, number)


@dataclass
class DataArguments:
    """What to train and evaluate on."""

    train_data: list[str] = field(
        metadata={"help": "Pairs: files, folders of them, save_to_disk folders or Hub ids, taken together."}
    )
    split: str | None = field(
        default=None, metadata={"help": "Split of train_data, or several joined by +; train, where there are splits."}
    )
    config: str | None = field(default=None, metadata={"help": "Configuration of train_data, on the Hub."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of train_data, on the Hub."})
    queries: str | None = field(
        default=None, metadata={"help": "File of the texts of query ids in train_data, or configuration on the Hub."}
    )
    corpus: str | None = field(default=None, metadata={"help": "The same of the passage ids in train_data."})
    positive_label: str | None = field(
        default=None, metadata={"help": "Keep the pairs with this label alone, such as 1 for duplicate questions."}
    )
    max_negatives: int | None = field(
        default=None, metadata={"help": "Columns of negatives, where train_data has lists of them."}
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder that relative names start from; those of train_data have to be there, others that are not "
            "there stand for themselves."
        },
    )
    columns: list[str] | None = field(
        default=None,
        metadata={"help": "Query, positive, negatives, in order; default: all columns of text, as they stand."},
    )
    source_column: str = field(
        default=SOURCE,
        metadata={"help": "Column that names a row's source, or none; default: source, if it is there."},
    )
    max_rows_per_source: int | None = field(
        default=None, metadata={"help": "Take this many rows of each source at most, at random."}
    )
    eval_tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders in BEIR layout, mteb tasks or benchmarks to evaluate the trained model on."},
    )
    qrels: str = field(
        default="test", metadata={"help": "Judgements of folders in eval_tasks to take, of several in `qrels/`."}
    )
    missing: Literal["error", "drop"] = field(
        default="error", metadata={"help": "Judgements of texts that are not there: an error, or dropped and counted."}
    )
    held_out_queries: int | None = field(
        default=None,
        metadata={"help": "Hold so many queries of each source out and evaluate on them, not on eval_tasks: to tune."},
    )
    held_out_documents: int = field(
        default=1000, metadata={"help": "Documents of a held-out collection, most of them passages of training pairs."}
    )

    def __post_init__(self) -> None:
        _check_counts(self, max_rows_per_source=1, max_negatives=0, held_out_queries=1, held_out_documents=1)
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise FileNotFoundError(f"data_dir: there is no folder {self.data_dir}, which relative names start from")
        if self.held_out_queries is not None and self.held_out_queries > self.held_out_documents:
            raise ValueError(
                f"held_out_queries={self.held_out_queries} must be at most held_out_documents="
                f"{self.held_out_documents}"
            )
        for name, reader in (
            ("held_out_documents", "held_out_queries"),
            ("qrels", "eval_tasks"),
            ("missing", "eval_tasks"),
        ):
            given, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if given != default and not getattr(self, reader):
                raise ValueError(
                    f"{name}={given!r} means nothing without {reader}; give {reader}, or leave {name} out"
                )

    @property
    def named_source(self) -> str | None:
        """The column that names a row's source, if there is one; None if rows are to have no sources."""
        return None if self.source_column.lower() == "none" else self.source_column

    @property
    def judging(self) -> Judging:
        """How the judgements of folders are taken; held-out collections have but one kind."""
        return Judging(missing=self.missing) if self.held_out_queries else Judging(self.qrels, self.missing)

    def find_tasks(self) -> list[str]:
        """Return the tasks, with folders found below data_dir."""
        return [self.find(task) for task in self.eval_tasks]

    def find(self, name: Any) -> Any:
        """Return a name, below data_dir if there is such a file or folder there."""
        below = Path(self.data_dir or ".")
        return str(below / name) if name is not None and (below / name).exists() else name


@dataclass
class ModelArguments:
    """Which model to train, with which loss."""

    model_name_or_path: str = field(
        metadata={"help": "Model to start from: path or Hub id; `static:` before it distils it to token embeddings."}
    )
    static_dim: int | None = field(
        default=None,
        metadata={"help": "Train new static token embeddings of this many dimensions, with the model's tokenizer."},
    )
    num_hidden_layers: int | None = field(
        default=None, metadata={"help": "Keep so many of a transformer's first layers, for a small model."}
    )
    pooling: Literal["mean", "cls", "lasttoken"] | None = field(
        default=None, metadata={"help": "How token vectors become one, if not as the model has it."}
    )
    max_seq_length: int | None = field(default=None, metadata={"help": "Tokens that the model reads of a text."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run the code that comes with model, encoder and guide, from the Hub."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "How attention is computed: `eager`, which suits CPUs, `sdpa`, `flash_attention_2`."},
    )
    loss: Loss = field(
        default="mnrl",
        metadata={
            "help": "In-batch negatives; cached for large batches; guided by stored vectors, or gist by a second "
            "forward pass, to mask false negatives; or splade."
        },
    )
    loss_scale: float | None = field(
        default=None,
        metadata={
            "help": "Inverse temperature of the in-batch softmax; by default 20, and 1 for the dot products of splade."
        },
    )
    gather_across_devices: bool = field(
        default=False, metadata={"help": "Take negatives from the batches of all devices, which share a stratum."}
    )
    mini_batch_size: int = field(default=32, metadata={"help": "Rows that a cached loss embeds at once."})
    guide_model: str | None = field(
        default=None,
        metadata={
            "help": "Model by which false negatives are told; of gist, where it cannot be static, or of guided, where "
            "it is the encoder by default."
        },
    )
    margin: float = field(
        default=0.0, metadata={"help": "A negative is masked if nearer than the positive, under the guide, by this."}
    )
    margin_strategy: MarginStrategy = field(
        default="absolute", metadata={"help": "Whether the margin is added to the positive's similarity, or a factor."}
    )
    contrast_anchors: bool = field(default=False, metadata={"help": "Of gist: other queries are negatives too."})
    contrast_positives: bool = field(
        default=False, metadata={"help": "Of gist: other positives are negatives of a positive too."}
    )
    teacher_weight: float = field(default=0.0, metadata={"help": "Of guided: weight of the guide's soft labels."})
    teacher_scale: float = field(default=TEACHER_SCALE, metadata={"help": "Of guided: inverse temperature of these."})
    directions: list[str] = field(
        default_factory=lambda: ["query_to_doc"],
        metadata={"help": "Similarities in the softmax: also query_to_query, doc_to_query, doc_to_doc."},
    )
    partition_mode: Literal["joint", "per_direction"] = field(
        default="joint", metadata={"help": "One softmax for all directions, or one for each."}
    )
    hardness_mode: Literal["in_batch_negatives", "hard_negatives", "all_negatives"] | None = field(
        default=None, metadata={"help": "Which negatives weigh more, the harder they are."}
    )
    hardness_strength: float = field(default=0.0, metadata={"help": "How much more."})
    query_regularizer_weight: float = field(default=5e-5, metadata={"help": "Of splade: how sparse queries are."})
    document_regularizer_weight: float = field(default=3e-5, metadata={"help": "Of splade: how sparse documents are."})

    def __post_init__(self) -> None:
        _check_counts(self, static_dim=1, num_hidden_layers=1, max_seq_length=1, mini_batch_size=1)
        if self.guide_model is None and self.loss in _GIST:
            raise ValueError(f"loss={self.loss!r} needs a guide_model, by which false negatives are told")
        margin = Margin(self.margin, self.margin_strategy)
        refuse_idle(self, "loss", self.loss, LOSSES_OF)
        check_guidance(margin, True, self.teacher_weight, self.teacher_scale)
        if self.hardness_strength and self.hardness_mode is None:
            raise ValueError(
                f"hardness_strength={self.hardness_strength:g} means nothing without a hardness_mode: give one, such "
                "as all_negatives, or leave it out"
            )

    @property
    def is_guided(self) -> bool:
        """Whether the loss reads vectors that are stored before training."""
        return self.loss in _GUIDED
