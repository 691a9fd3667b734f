"""Choose batches for the docstrings of installed packages, and see what that is worth; without a network."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.clusters.encoder import STATIC_PREFIX, Encoder
from st_cluster_batches.clusters.keys import attach_keys
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.collection import Collection
from st_cluster_batches.data.pairs import WHOLE
from st_cluster_batches.demo.description import TUNED
from st_cluster_batches.demo.docstrings import COLLECTIONS, collect_docstrings, split_docstrings
from st_cluster_batches.demo.latent_semantics import fit_encoder, train_tokenizer
from st_cluster_batches.demo.source_rate import choose_rate
from st_cluster_batches.demo.static_trainer import BATCH_SIZE, build_static_trainer
from st_cluster_batches.evaluation.comparison import RUNS
from st_cluster_batches.evaluation.loader_hardness import measure_loader
from st_cluster_batches.evaluation.report import TABLE_FILE
from st_cluster_batches.evaluation.retrieval import evaluate
from st_cluster_batches.evaluation.runs import (
    Record,
    measure_run,
    measure_tuning,
    remove_damaged,
    report_runs,
    run_variants,
)
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.tasks import identify_task, load_tasks
from st_cluster_batches.evaluation.tuning import tune
from st_cluster_batches.inspection.findings import Inspection
from st_cluster_batches.inspection.measuring import inspect
from st_cluster_batches.inspection.page import write_page
from st_cluster_batches.storage.cache import hash_values, read_json, write_atomically, write_whole
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.folder import CLUSTERING_FOLDER, EVALUATION_FOLDER, MODEL_FOLDER
from st_cluster_batches.training.trainer_arguments import Strategy

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

STRATEGIES: dict[str, Strategy] = {"random": "random", "source": "source", TUNED: "cluster"}

CACHE_FOLDER = "cache"
TUNE_FOLDER = "tune"
PAGE_FILE = "batches.html"


def load_start(start: str, output: Path) -> str:
    """Load the model that training is to start from, to see that it is one.

    Args:
        start: Path of the model, which is distilled to token embeddings (model2vec).
        output: Folder of the demo, where the distilled one is kept.

    Returns:
        The name of it as an encoder.
    """
    encoder = STATIC_PREFIX + start.removeprefix(STATIC_PREFIX)
    Start.load(encoder, output / CACHE_FOLDER)
    return encoder


def gather_pairs(output: Path, max_pairs: int | None) -> tuple[Dataset, dict[str, Collection]]:
    """Read the docstrings of installed packages, and write those that are held out as collections.

    Args:
        output: Folder of the demo.
        max_pairs: Training pairs at most.

    Returns:
        The training pairs with their source, and the collections by name.

    Raises:
        ValueError: If the environment holds too few docstrings.
    """
    logger.info("Step 1 of 4: reading the docstrings of installed packages")
    pairs, collections = split_docstrings(collect_docstrings(), max_pairs)
    for name, collection in collections.items():
        logger.info("Held out as %s: %d queries, %d documents", name, len(collection.queries), len(collection.corpus))
        collection.write(output / "collections" / name)
    return pairs, collections


def run_demo(
    output: Path, pairs: Dataset, collections: Mapping[str, Collection], *, n_seeds: int, encoder: str | None = None
) -> dict[str, Any]:
    """Choose how to fill batches on docstrings, train with it and without, and compare on held-out docstrings.

    The choice, and the learning rate of each strategy, are made on training pairs alone. All runs start from the same
    weights and take as many steps; only batches and their rate differ. What is finished is not done again.

    Args:
        output: Folder for the collections, the choice, the comparison, and the tuned model of the first seed, with all
            that `build` needs beside it.
        pairs: The training pairs, from `gather_pairs`.
        collections: What models are evaluated on, likewise.
        n_seeds: Runs of each strategy.
        encoder: The start of training, from `load_start`. By default token embeddings are fitted to the docstrings by
            latent semantic analysis.

    Returns:
        What `results.json` holds, the `choice`, the number of `sources`, and where `model`, `report` and `page` lie.
    """
    cache = SharedCache(output / CACHE_FOLDER, show_progress_bar=False)
    encoder = encoder or _fit_start(pairs, output)
    logger.info(
        "Step 2 of 4: choosing how to fill batches of %d, with small models on the %d training pairs alone",
        BATCH_SIZE,
        len(pairs),
    )
    plain, tuned = pairs.remove_columns(SOURCE), output / TUNE_FOLDER
    run = partial(
        tune, plain, encoder, batch_size=BATCH_SIZE, n_seeds=max(2, n_seeds), output_dir=tuned, cache_dir=cache.folder
    )
    demo = Demo(output, pairs, collections, encoder, *measure_tuning(run, tuned), cache)
    logger.info("Chosen: %s", demo.chosen)
    return demo.compare(n_seeds)


def _fit_start(pairs: Dataset, output: Path) -> str:
    """Fit a start to the texts of the pairs, unless that has been done, and return its name as an encoder."""
    texts = [f"{row['query']} {row['passage']}" for row in pairs]
    folder = output / f"start-{hash_values(texts)[:8]}"
    if not folder.exists():
        logger.info("Fitting token embeddings to these texts: what a pretrained model would be elsewhere")
        with write_whole(folder) as temporary:
            fit_encoder(train_tokenizer([*pairs["query"], *pairs["passage"]]), texts).save(
                str(temporary), create_model_card=False
            )
    return f"{STATIC_PREFIX}{folder}"


@dataclass(frozen=True)
class Demo:
    """All that the comparison needs.

    Args:
        output: Folder of results.
        pairs: Training pairs with their source.
        collections: What models are evaluated on, by name.
        encoder: Name of the model that is the start of training, and whose vectors are clustered.
        choice: How tuned batches are filled.
        tune_seconds: How long it took to choose that.
        cache: Where vectors and labels are kept.
    """

    output: Path
    pairs: Dataset
    collections: Mapping[str, Collection]
    encoder: str
    choice: Choice
    tune_seconds: float
    cache: SharedCache

    @property
    def chosen(self) -> str:
        """The chosen way in words."""
        return str(self.choice.sources[WHOLE])

    @property
    def tasks(self) -> list[Path]:
        """The folders of the collections."""
        return [self.output / "collections" / name for name in self.collections]

    @cached_property
    def start(self) -> Start:
        """The token embeddings that training starts from."""
        return Start.load(self.encoder, self.cache.folder)

    @cached_property
    def keyed(self) -> Dataset:
        """The pairs with the keys that keep false negatives apart, as those of the clusters do."""
        return attach_keys(self.pairs, cache_dir=self.cache.folder, show_progress_bar=False)

    @cached_property
    def rates(self) -> dict[str, float]:
        """The learning rate of each strategy, in root mean squares of the embeddings."""
        evidence = self.choice.evidence[WHOLE]
        logger.info("Choosing the learning rate of single-source batches, as that of the others was")
        return {
            "random": evidence["rates"]["random"],
            "source": choose_rate(self.keyed, self.start, BATCH_SIZE),
            TUNED: evidence["rates"][self.chosen],
        }

    def compare(self, n_seeds: int) -> dict[str, Any]:
        """Train and evaluate with every strategy and seed, report, and draw the tuned batches."""
        n_runs = n_seeds * len(STRATEGIES)
        logger.info("Step 3 of 4: %d training runs, with random, single-source and tuned batches", n_runs)
        folder = self.output / RUNS / "start"
        before = evaluate(Encoder(self.encoder, self.cache.folder).model, self.tasks, folder, show_progress_bar=False)
        remove_damaged(self.output / RUNS)
        records = run_variants(list(STRATEGIES), n_seeds, self._get_record)
        about = {
            "pairs": len(self.pairs),
            "sources": len(set(self.pairs[SOURCE])),
            "steps": records[-1]["steps"],
            "batch_size": BATCH_SIZE,
            "rates": self.rates,
            "before": {name: one.ndcg_at_10 for name, one in before.items()},
            "collections": COLLECTIONS,
        }
        results = report_runs(records, about, self.output)
        logger.info("Step 4 of 4: drawing the batches")
        places = {"model": str(self.output / MODEL_FOLDER), "report": str(self.output / TABLE_FILE)}
        return {**results, **places, "choice": self.choice.describe(), "page": self._draw_page()}

    def _get_record(self, name: str, seed: int) -> Record:
        """Return the record of a finished run, or run it."""
        labelled, seconds = self._label(name, seed)
        rate = self.rates[name]
        is_kept = (name, seed) == (TUNED, 0)
        folder = self.output if is_kept else self.output / RUNS / f"{name}-{seed}"
        strategy = self._find_strategy(name)
        n_rows = self.choice.rows_per_stratum if strategy == STRATEGIES[TUNED] else None
        trainer = build_static_trainer(self.start, labelled, strategy, n_rows, rate, seed, folder)
        (sampler,) = find_samplers(trainer.get_train_dataloader())[1]
        if seed == 0:
            logger.info("%s batches, one epoch: %s", name, sampler.counts)
        tasks = [identify_task(one) for one in load_tasks(self.tasks).values()]
        digest = hash_values(self.start.fingerprint, rate, sampler.describe(), tasks)
        path = self.output / RUNS / f"{name}-{seed}-{digest[:16]}.json"
        if path.exists() and (not is_kept or (self.output / MODEL_FOLDER).is_dir()):
            record: Record = read_json(path)
            return record
        # The model that lies here is that of the last record.
        for other in path.parent.glob(f"{name}-{seed}-*.json"):
            other.unlink()
        record = measure_run(
            trainer,
            self.tasks,
            folder / EVALUATION_FOLDER,
            partial(measure_loader, encoder=Encoder(self.encoder, self.cache.folder), cache=self.cache),
            attach_seconds=seconds,
            tune_seconds=self.tune_seconds if name == TUNED else 0.0,
            save_to=self.output / MODEL_FOLDER if is_kept else None,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(record) + "\n")
        return record

    def _find_strategy(self, name: str) -> Strategy:
        """Return the strategy of a variant: where random batches were chosen, tuned ones are those, run for run."""
        is_random = self.choice.sources[WHOLE].cluster_size is None
        return "random" if name == TUNED and is_random else STRATEGIES[name]

    def _label(self, name: str, seed: int) -> tuple[Dataset, float]:
        """Return the pairs labelled for a strategy, and how long that took; every seed has clusters of its own."""
        if name != TUNED:
            return self.keyed, 0.0
        begun = time.perf_counter()
        options = AttachOptions(
            ClusterOptions(seed=seed), tuned=self.choice, cache_dir=self.cache.folder, show_progress_bar=False
        )
        labelled, clustering = cluster_dataset(self.pairs.remove_columns(SOURCE), self.encoder, options)
        if seed == 0:
            clustering.save(self.output / CLUSTERING_FOLDER)
        return labelled, time.perf_counter() - begun

    def _draw_page(self) -> str | None:
        """Write the report of the tuned batches, if the library is there; return its path."""
        if find_spec("plotly") is None:
            return None
        write_page(self.inspect_batches(), self.output / PAGE_FILE)
        return str(self.output / PAGE_FILE)

    def inspect_batches(self) -> Inspection:
        """Measure the tuned batches of the first seed, filled as they were trained on."""
        return inspect(
            self._label(TUNED, 0)[0],
            self.encoder,
            batch_size=BATCH_SIZE,
            rows_per_stratum=self.choice.rows_per_stratum,
            cache_dir=self.cache.folder,
            show_progress_bar=False,
        )
