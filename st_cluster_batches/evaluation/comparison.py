"""Train the same model on the same data for the same steps, with several batch strategies and seeds, and compare."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import DatasetDict
from tqdm.auto import tqdm
from transformers.trainer_utils import get_last_checkpoint

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.hardness import BatchHardness, measure_loader
from st_cluster_batches.batches.labels import SOURCE
from st_cluster_batches.clusters.encoder import STATIC_PREFIX, fingerprint_model, load_encoder
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER
from st_cluster_batches.data.texts import check_texts, find_text_columns
from st_cluster_batches.evaluation.report import write_report
from st_cluster_batches.evaluation.retrieval import evaluate, on_main_process
from st_cluster_batches.evaluation.scores import TaskScores
from st_cluster_batches.evaluation.summary import summarise_runs
from st_cluster_batches.evaluation.tasks import identify_task, load_tasks
from st_cluster_batches.evaluation.variants import read_variants
from st_cluster_batches.storage.cache import default_cache_dir, hash_values, write_atomically
from st_cluster_batches.training.recipe import VARIANTS, Recipe, read_values
from st_cluster_batches.training.run import build_run, find_columns, label_pairs, load_pairs

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

RUNS = "runs"

_VERSIONED = ("st-cluster-batches", "sentence-transformers", "transformers", "accelerate", "datasets", "mteb", "torch")
# How names of training arguments begin that say where things lie and what is shown, and decide nothing.
_UNDECIDING = ("output_dir", "run_name", "report_to", "disable_tqdm", "resume_from", "logging_", "save_")


def compare(
    recipe: str | Path, output_dir: str | Path, *, n_seeds: int = 3, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare batch strategies: same model, data, steps, batch size, loss and schedule, but for who shares a batch.

    All runs of a seed start from the same weights. A run that has been finished is never repeated: it is known by a
    hash of all that decides it. Nothing but the run in hand is lost when the process is killed.

    Args:
        recipe: YAML file; its `variants`, if any, are compared, the first as the baseline. Otherwise batches of
            random rows, of one source (where there is a column `source`) and of one cluster.
        output_dir: Folder for `results.json`, `results.md`, figures, and `runs/` with the scores of every query.
        n_seeds: Runs of each variant, with the seeds 0, 1, ...
        overrides: `--key value` words for all variants.

    Returns:
        What `results.json` holds; nothing on processes other than the main one.

    Raises:
        ValueError: If recipe, data and tasks do not fit; before any training.
    """
    return Comparison.prepare(recipe, Path(output_dir), n_seeds, overrides).run()


@dataclass(frozen=True)
class Variant:
    """One way to fill batches, with the pairs labelled for it.

    Args:
        dataset: The pairs, perhaps labelled.
        attach_seconds: Wall time of labelling them. Variants that need the same embeddings share them, and their
            time is that of the first one; labels from an earlier call cost nothing.
        steps: Optimiser steps of the whole training.
        decided_by: Hash of model, labels, loss and training arguments, but for the seed.
    """

    dataset: Dataset | DatasetDict
    attach_seconds: float
    steps: int
    decided_by: str


@dataclass(frozen=True)
class Comparison:
    """A comparison whose every input has been checked.

    Args:
        path: The recipe.
        overrides: Words of the command line.
        base: The baseline's parameters; its encoder measures the hardness of all variants.
        output: Folder for all that comes out.
        variants: By name, the baseline first.
        tasks: What the trained models are evaluated on.
        n_seeds: Runs of each variant.
        about: What `results.json` says of the whole comparison.
    """

    path: Path
    overrides: tuple[str, ...]
    base: Recipe
    output: Path
    variants: dict[str, Variant]
    tasks: list[str]
    n_seeds: int
    about: dict[str, Any]

    @classmethod
    def prepare(cls, path: str | Path, output: Path, n_seeds: int, overrides: Sequence[str] = ()) -> Comparison:
        """Check everything and label the pairs for every variant; see `compare` for arguments and errors."""
        if n_seeds < 1:
            raise ValueError(f"n_seeds={n_seeds} must be at least 1")
        recipes = read_variants(path, overrides, {"output_dir": str(output), "seed": 0})
        base = next(iter(recipes.values()))
        pairs, tasks = load_pairs(base, output / HELD_OUT_FOLDER)
        if VARIANTS not in read_values(path) and SOURCE not in find_columns(pairs):
            logger.info("The pairs have no column %r: nothing to compare single-source batches on", SOURCE)
            del recipes["source"]
        if not tasks:
            raise ValueError(
                f"{path} names no eval_tasks; give some, or held_out_queries to hold them out of the data"
            )
        decided_by = {
            "data": _hash_texts(pairs),
            "tasks": [identify_task(task) for task in load_tasks(tasks).values()],
            "versions": {name: version(name) for name in _VERSIONED},
        }
        variants = {name: _prepare_variant(recipe, pairs, decided_by) for name, recipe in recipes.items()}
        about = {
            "recipe": read_values(path),
            "overrides": [_hide_place(word) for word in overrides],
            "pairs": sum(map(len, pairs.values())) if isinstance(pairs, DatasetDict) else len(pairs),
            "steps": min(variant.steps for variant in variants.values()),
            "versions": decided_by["versions"],
            "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()},
        }
        return cls(Path(path), tuple(overrides), base, output, variants, tasks, n_seeds, about)

    def run(self) -> dict[str, Any]:
        """Do what is left to do, and report; see `compare`."""
        records = []
        runs = [(seed, name) for seed in range(self.n_seeds) for name in self.variants]
        for seed, name in tqdm(runs, "Comparing", unit="run"):
            path = self.output / RUNS / f"{self._identify(name, seed)}.json"
            if path.exists():
                logger.info("%s with seed %d has been run before", name, seed)
            else:
                self._run_one(name, seed, path)
            if path.exists():  # on the main process
                records.append({"variant": name, "seed": seed, **json.loads(path.read_text())})

        def report() -> dict[str, Any]:
            results = summarise_runs(records, self.about)
            write_report(results, self.output)
            return results

        return on_main_process(report, otherwise={})

    def _identify(self, name: str, seed: int) -> str:
        return f"{name}-{seed}-{hash_values(self.variants[name].decided_by, self.about['steps'], seed)[:16]}"

    def _run_one(self, name: str, seed: int, path: Path) -> None:
        """Train and evaluate, and write down what came out; only the finished record counts."""
        variant = self.variants[name]
        working = path.with_suffix("")
        common = {"seed": seed, "output_dir": str(working / "trainer"), "max_steps": self.about["steps"]}
        recipe = read_variants(self.path, self.overrides, common)[name]
        run = build_run(recipe, variant.dataset)
        hardness = on_main_process(
            lambda: measure_loader(run.trainer.get_train_dataloader(), self._encoder), otherwise=None
        )
        start = time.perf_counter()
        last = get_last_checkpoint(str(working / "trainer")) if (working / "trainer").exists() else None
        run.trainer.train(resume_from_checkpoint=last)
        trained = time.perf_counter()
        scores = evaluate(
            run.trainer.model,
            self.tasks,
            working / "evaluation",
            batch_size=recipe.training.per_device_eval_batch_size,
            show_progress_bar=False,
        )
        record = {
            "steps": run.trainer.state.global_step,
            "evaluate_seconds": round(time.perf_counter() - trained, 2),
            **record_run(run.trainer, scores, hardness, (variant.attach_seconds, trained - start)),
        }

        def finish() -> None:
            write_atomically(path, json.dumps(record) + "\n")
            shutil.rmtree(working)

        on_main_process(finish, otherwise=None)

    @cached_property
    def _encoder(self) -> SentenceTransformer:
        name = self.base.clusters.encoder or self.base.model.model_name_or_path
        return load_encoder(name, Path(self.base.clusters.cache_dir or default_cache_dir()))


def record_run(
    trainer: Any, scores: Mapping[str, TaskScores], hardness: BatchHardness | None, seconds: tuple[float, float]
) -> dict[str, Any]:
    """Write down what is compared of a run that has been trained and evaluated.

    Args:
        trainer: The trainer, for the batches that it saw.
        scores: From `evaluate`.
        hardness: Of its first batches.
        seconds: What labelling the pairs took, and training.

    Returns:
        JSON values, for `summarise_runs` with `variant` and `seed` added.
    """
    samplers = find_samplers(trainer.get_train_dataloader())[1]
    return {
        "attach_seconds": round(seconds[0], 2),
        "train_seconds": round(seconds[1], 2),
        "counts": [asdict(sampler.counts) for sampler in samplers],
        "hardness": asdict(hardness) if hardness else None,
        "ndcg_at_10": {task: one.ndcg_at_10 for task, one in scores.items()},
        "per_query": {task: one.per_query for task, one in scores.items()},
    }


def _prepare_variant(recipe: Recipe, pairs: Dataset | DatasetDict, decided_by: dict[str, Any]) -> Variant:
    start = time.perf_counter()
    dataset, _ = label_pairs(pairs, recipe)
    seconds = time.perf_counter() - start
    run = build_run(recipe, dataset)
    arguments = {key: value for key, value in recipe.training.to_dict().items() if not key.startswith(_UNDECIDING)}
    loader = run.trainer.get_train_dataloader()
    updates = -(-len(loader) // recipe.training.gradient_accumulation_steps)
    model = {key: value for key, value in asdict(recipe.model).items() if key != "model_name_or_path"}
    return Variant(
        dataset,
        seconds,
        recipe.training.max_steps
        if recipe.training.max_steps > 0
        else round(updates * recipe.training.num_train_epochs),
        hash_values(
            decided_by,
            fingerprint_model(run.trainer.model),
            model,
            {**arguments, "strategy": recipe.training.strategy},
            [sampler.describe() for sampler in find_samplers(loader)[1]],
        ),
    )


def _hide_place(word: str) -> str:
    """Name a file of this machine without saying where it lies: results are published."""
    prefix = STATIC_PREFIX if word.startswith(STATIC_PREFIX) else ""
    path = Path(word.removeprefix(prefix))
    return prefix + path.name if path.exists() else word


def _hash_texts(pairs: Dataset | DatasetDict) -> list[str]:
    parts = pairs.values() if isinstance(pairs, DatasetDict) else [pairs]
    return [check_texts(part, find_text_columns(part), show_progress_bar=False) for part in parts]
