"""Compare batch strategies: the same model trained on the same data for the same steps, over several seeds."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset, DatasetDict

from st_cluster_batches.batches.hardness import BatchHardness
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.columns import SOURCE, list_parts
from st_cluster_batches.data.holdout import HELD_OUT_FOLDER
from st_cluster_batches.data.naming import name_file
from st_cluster_batches.evaluation.loader_hardness import measure_loader
from st_cluster_batches.evaluation.prepared_variant import Variant, choose_starts, prepare_variant
from st_cluster_batches.evaluation.runs import (
    Record,
    measure_run,
    remove_damaged,
    report_runs,
    run_variants,
)
from st_cluster_batches.evaluation.tasks import identify_task, load_tasks
from st_cluster_batches.evaluation.variant_labels import hash_texts, label_variants
from st_cluster_batches.evaluation.variants import derive_recipe, read_variants, tune_recipe
from st_cluster_batches.storage.cache import default_cache_dir, hash_values, read_json, write_atomically
from st_cluster_batches.storage.claims import claim
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.checks import check_pairs, load_checked_model
from st_cluster_batches.training.folder import EVALUATION_FOLDER, find_hub_ids, publish_values, publish_words
from st_cluster_batches.training.idle import tell_of_idle_variants
from st_cluster_batches.training.pairs import find_labels, load_pairs
from st_cluster_batches.training.recipe import VARIANTS, Recipe, read_values
from st_cluster_batches.training.resuming import find_last_checkpoint
from st_cluster_batches.training.run import build_run

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)

RUNS = "runs"
TUNED = "tuned"

_VERSIONED = ("st-cluster-batches", "sentence-transformers", "transformers", "accelerate", "datasets", "mteb", "torch")


def compare(
    recipe: str | Path, output_dir: str | Path, *, n_seeds: int = 3, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare batch strategies with the same model, data, steps, batch size, loss and schedule.

    All runs of a seed start from the same weights. A finished run is never repeated: its record is found by a hash of
    everything that affects its result. When the process is killed, only the current run is lost.

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
        OSError: If another comparison is at work in the same folder; before any work.
    """
    with Comparison.open(recipe, Path(output_dir).expanduser(), n_seeds, overrides) as comparison:
        return comparison.run()


@dataclass(frozen=True)
class Comparison:
    """A comparison whose every input has been checked.

    Args:
        output: Folder for all results.
        variants: By name, the baseline first; its encoder measures the hardness of all.
        tasks: What the trained models are evaluated on.
        n_seeds: Runs of each variant.
        about: What `results.json` says of the whole comparison.
    """

    output: Path
    variants: dict[str, Variant]
    tasks: list[str]
    n_seeds: int
    about: dict[str, Any]

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, output: Path, n_seeds: int, overrides: Sequence[str] = ()) -> Iterator[Comparison]:
        """Prepare a comparison in a folder that is its own; see `compare` for arguments and errors.

        Two of them would hold other queries out there, and train in one working folder.
        """
        output.mkdir(parents=True, exist_ok=True)
        with claim(output, "compare"):
            yield cls.prepare(path, output, n_seeds, overrides)

    @classmethod
    def prepare(cls, path: str | Path, output: Path, n_seeds: int, overrides: Sequence[str] = ()) -> Comparison:
        """Check everything and label the pairs for every variant; see `compare` for arguments and errors."""
        n_seeds, values = as_count("n_seeds", n_seeds), read_values(path)
        recipes = read_variants(path, overrides, {"output_dir": str(output), "seed": 0})
        baseline = next(iter(recipes.values()))
        pairs, tasks = load_pairs(baseline, output / HELD_OUT_FOLDER)
        if VARIANTS not in values and SOURCE not in find_labels(pairs, baseline.data):
            logger.info("The pairs have no column %r: nothing to compare single-source batches on", SOURCE)
            del recipes["source"]
        if not tasks:
            raise ValueError(
                f"{path} names no eval_tasks; give some, or held_out_queries to hold them out of the data"
            )
        tell_of_idle_variants(recipes, values.get(VARIANTS, {}))
        for one in recipes.values():
            check_pairs(one, pairs)
        load_checked_model(baseline, pairs)  # all variants have this model
        versions = {name: version(name) for name in _VERSIONED}
        inputs = {
            # The stock order has no plan that tells of it: on more processes a batch is a larger one.
            "processes": ProcessGroup.current().size,
            "data": hash_texts(pairs, baseline.data),
            "tasks": [identify_task(task) for task in load_tasks(tasks, baseline.data.judging).values()],
            "versions": versions,
        }
        tuned = {name: tune_recipe(one, pairs, output / TUNED / name) for name, one in recipes.items()}
        recipes = {name: recipe for name, (recipe, _) in tuned.items()}
        labelled = label_variants(pairs, recipes)
        looked_at = choose_starts(recipes)
        variants = {
            name: prepare_variant(recipe, labelled[name], seconds, inputs, name in looked_at)
            for name, (recipe, seconds) in tuned.items()
        }
        return cls(output, variants, tasks, n_seeds, _describe(values, overrides, pairs, variants, versions))

    def run(self) -> dict[str, Any]:
        """Do the runs that have not been done, and report; see `compare`."""
        ProcessGroup.current("compare").once(lambda: remove_damaged(self.output / RUNS), None)
        records = run_variants(list(self.variants), self.n_seeds, self._get_record)
        return report_runs(records, self.about, self.output)

    def _get_record(self, name: str, seed: int) -> Record | None:
        """Return the record of a finished run, or run it; None on processes that do not see the record.

        The main process alone says whether it is finished, since nodes may have disks of their own.
        """
        fingerprint = hash_values(self.variants[name].fingerprint, self.about["steps"], seed)
        path = self.output / RUNS / f"{name_file(name)}-{seed}-{fingerprint[:16]}.json"
        if ProcessGroup.current("compare").decide(path.exists):
            logger.info("%s with seed %d has been run before", name, seed)
            # A kill between the record and the end of the run leaves its folder.
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            self._measure_anew(self.variants[name], seed, path)
        else:
            self._run(self.variants[name], seed, path)
        return read_json(path) if path.exists() else None

    def _run(self, variant: Variant, seed: int, path: Path) -> None:
        """Train and evaluate, and write the record; only a run with a record counts as finished."""
        working = path.with_suffix("")
        trained = working / "trainer"
        recipe = self._derive(variant, seed, trained)
        record = measure_run(
            build_run(recipe, variant.labelled.dataset).trainer,
            self.tasks,
            working / EVALUATION_FOLDER,
            self._measure_hardness,
            attach_seconds=variant.labelled.seconds,
            tune_seconds=variant.tune_seconds,
            checkpoint=find_last_checkpoint(trained),
            judging=recipe.data.judging,
            batch_size=recipe.training.per_device_eval_batch_size,
        )

        def finish() -> None:
            self._write_record(path, record)
            shutil.rmtree(working)

        ProcessGroup.current("compare").once(finish, None)

    def _measure_anew(self, variant: Variant, seed: int, path: Path) -> None:
        """Measure the batches of a finished run again where another encoder measured them: a table has one for all."""
        processes = ProcessGroup.current("compare")
        record = read_json(path)
        if not processes.decide(lambda: record.get("hardness_encoder") != self._encoder.fingerprint):
            return
        logger.info("The batches of %s were measured by another encoder; %s measures them", path, self._encoder.name)
        trainer = build_run(self._derive(variant, seed, self.output), variant.labelled.dataset).trainer

        def measure() -> None:
            hardness = asdict(self._measure_hardness(trainer.get_train_dataloader()))
            self._write_record(path, {**record, "hardness": hardness})

        processes.once(measure, None)

    def _write_record(self, path: Path, record: Record) -> None:
        """Write the record of a run, with what has measured its batches; no older record says that."""
        content = {**record, "hardness_encoder": self._encoder.fingerprint}
        write_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")

    def _derive(self, variant: Variant, seed: int, output_dir: Path) -> Recipe:
        """Return the recipe of one run."""
        return derive_recipe(variant.recipe, seed=seed, output_dir=str(output_dir), max_steps=self.about["steps"])

    def _measure_hardness(self, loader: DataLoader[Any]) -> BatchHardness:
        return measure_loader(loader, self._encoder, SharedCache(self._encoder.cache_dir))

    @cached_property
    def _encoder(self) -> Encoder:
        """What measures how hard the batches of all variants are."""
        baseline = next(iter(self.variants.values())).recipe
        clusters = baseline.clusters
        name = clusters.encoder or baseline.model.model_name_or_path
        return Encoder(
            name,
            Path(clusters.cache_dir or default_cache_dir()),
            clusters.truncate_dim,
            clusters.encoder_batch_size,
            trust_remote_code=baseline.model.trust_remote_code,
        )


def _describe(
    values: dict[str, Any],
    overrides: Sequence[str],
    pairs: Dataset | DatasetDict,
    variants: dict[str, Variant],
    versions: dict[str, str],
) -> dict[str, Any]:
    """Return what `results.json` says of a whole comparison, as anyone may read it."""
    hub_ids = sorted({one for variant in variants.values() for one in find_hub_ids(variant.recipe)})
    return {
        "recipe": publish_values(values, hub_ids),
        "overrides": publish_words(overrides, hub_ids),
        "hub_ids": hub_ids,
        "pairs": sum(map(len, list_parts(pairs))),
        "steps": min(variant.steps for variant in variants.values()),
        "versions": versions,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "gpus": torch.cuda.device_count()},
    }
