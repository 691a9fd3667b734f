"""The runs of a comparison: every variant with every seed, trained, evaluated and recorded; and one by itself."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss, GISTEmbedLoss
from tqdm.auto import tqdm

from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.card_block import PLAN_FILE
from st_cluster_batches.batches.hardness import BatchHardness
from st_cluster_batches.clusters.choice import Choice
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.data.collection import Judging
from st_cluster_batches.evaluation.report import write_report
from st_cluster_batches.evaluation.retrieval import evaluate
from st_cluster_batches.evaluation.scores import TaskScores
from st_cluster_batches.evaluation.summary import summarise_runs
from st_cluster_batches.evaluation.time_spent import Spent
from st_cluster_batches.losses.guided import Guided
from st_cluster_batches.storage.cache import hash_values, read_json, write_atomically
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.training.folder import EVALUATION_FOLDER
from st_cluster_batches.training.run import Run

Record = dict[str, Any]  # JSON values

logger = logging.getLogger(__name__)

# What a summary reads of every record.
_NEEDED = {"steps", "ndcg_at_10", "per_query", "attach_seconds", "train_seconds", "counts", "hardness"}
_SECONDS_FILE = "seconds.json"


def run_variants(names: Sequence[str], n_seeds: int, run: Callable[[str, int], Record | None]) -> list[Record]:
    """Run every variant with every seed.

    Args:
        names: The variants, the baseline first.
        n_seeds: Runs of each, with the seeds 0, 1, ...
        run: Trains and evaluates a variant with a seed, and returns its record, as `measure_run` makes it. On
            processes other than the main one it may return None.

    Returns:
        The records, with `variant` and `seed`.
    """
    runs = [(seed, name) for seed in range(n_seeds) for name in names]
    records = []
    for seed, name in (bar := tqdm(runs, "Training and evaluating", unit="run")):
        bar.set_description(f"Training and evaluating, {name} batches, seed {seed}")
        if (record := run(name, seed)) is not None:
            records.append({"variant": name, "seed": seed, **record})
    return records


def remove_damaged(folder: Path) -> None:
    """Remove the records of runs that cannot be read, such that these are run again, and name them.

    Args:
        folder: Where records are; all processes that read them must find the same, so one removes them before.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            fault = f"it has no {', '.join(missing)}" if (missing := sorted(_NEEDED - {*record})) else ""
        except (ValueError, TypeError) as error:
            fault = str(error)
        if fault:
            size = path.stat().st_size
            logger.warning("%s is damaged (%d bytes: %s) and removed; its run is done again", path, size, fault)
            path.unlink()


def measure_tuning(run: Callable[[], Choice], folder: Path) -> tuple[Choice, float]:
    """Tune, and say what that has cost.

    Args:
        run: Tunes with its output in the folder.
        folder: Where the time is kept too: a later call finds the trials done, and takes no time.

    Returns:
        The choice, and the seconds of wall time of the longest call that made the same one.
    """
    start = time.perf_counter()
    choice = run()
    path = folder / _SECONDS_FILE
    made = hash_values(choice.describe())
    earlier = read_json(path) if path.exists() else {}
    if not isinstance(earlier, dict):  # as earlier versions wrote it, of whichever choice
        earlier = {"choice": made, "seconds": earlier}
    seconds = round(time.perf_counter() - start, 2)
    if earlier.get("choice") == made:
        seconds = max(seconds, earlier["seconds"])
    write_atomically(path, json.dumps({"choice": made, "seconds": seconds}) + "\n")
    return choice, seconds


def measure_run(
    trainer: Any,
    tasks: Sequence[str | Path],
    folder: Path,
    measure_hardness: Callable[[Any], BatchHardness],
    *,
    attach_seconds: float,
    tune_seconds: float = 0.0,
    checkpoint: Path | None = None,
    save_to: Path | None = None,
    judging: Judging | None = None,
    batch_size: int = 32,
) -> Record:
    """Train a model, evaluate it, and record what is compared.

    Args:
        trainer: A trainer that is ready to train.
        tasks: What to evaluate on, as for `evaluate`.
        folder: Folder for the scores.
        measure_hardness: Measures the in-batch negatives of a training DataLoader; on the main process only.
        attach_seconds: Wall time of labelling the pairs.
        tune_seconds: Wall time of choosing how, where that was done for these runs.
        checkpoint: Folder of a checkpoint to go on from.
        save_to: Folder to save the trained model in.
        judging: How the judgements of folders are taken.
        batch_size: Texts that the model sees at once in evaluation.

    Returns:
        Steps, times (of refreshes, too), counts of batches, whether false negatives were kept apart, hardness, what
        was masked by which guide, and nDCG@10 by task and by query.
    """
    hardness = ProcessGroup.current("compare").once(
        lambda: measure_hardness(trainer.get_train_dataloader()), otherwise=None
    )
    spent = Spent(trainer.loss, checkpoint)
    trainer.add_callback(spent)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    train_seconds = spent.seconds
    if save_to is not None:
        # Before evaluating: the card says how long it was from the start of training to this.
        trainer.save_model(str(save_to))
    start = time.perf_counter()
    scores = evaluate(trainer.model, tasks, folder, judging=judging, batch_size=batch_size, show_progress_bar=False)
    evaluate_seconds = time.perf_counter() - start
    samplers = find_samplers(trainer.get_train_dataloader())[1]
    return {
        "steps": trainer.state.global_step,
        "evaluate_seconds": round(evaluate_seconds, 2),
        "attach_seconds": round(attach_seconds, 2),
        "tune_seconds": round(tune_seconds, 2),
        "train_seconds": round(train_seconds, 2),
        "refresh_seconds": _read_refresh_seconds(Path(trainer.args.output_dir) / PLAN_FILE),
        "counts": [asdict(sampler.counts) for sampler in samplers],
        "keeps_false_negatives_apart": any(sampler.describe()["distinct"] for sampler in samplers),
        "hardness": asdict(hardness) if hardness else None,
        "masked_share": getattr(trainer.loss, "masked_share", None),
        "guide": identify_guide(trainer.loss),
        "ndcg_at_10": {task: one.ndcg_at_10 for task, one in scores.items()},
        "per_query": {task: one.per_query for task, one in scores.items()},
    }


def evaluate_run(run: Run, tasks: Sequence[str] | dict[str, Any]) -> dict[str, TaskScores]:
    """Evaluate the model of a run that has been trained, and write the scores into its folder.

    Args:
        run: The run.
        tasks: What it is evaluated on, as for `evaluate`.
    """
    recipe = run.recipe
    folder = Path(recipe.training.output_dir) / EVALUATION_FOLDER
    batch_size = recipe.training.per_device_eval_batch_size
    return evaluate(run.trainer.model, tasks, folder, judging=recipe.data.judging, batch_size=batch_size)


def identify_guide(loss: Any) -> str | None:
    """Return a hash of what tells false negatives to a loss: stored vectors, or a model; None if nothing does."""
    if isinstance(loss, Guided):
        return loss.guide.digest
    return fingerprint_model(loss.guide) if isinstance(loss, GISTEmbedLoss | CachedGISTEmbedLoss) else None


def _read_refresh_seconds(plan: Path) -> float | None:
    """Return the wall time of all refreshes of a run, which is part of that of training; None if there were none."""
    parts = read_json(plan) if plan.is_file() else []
    seconds = [one["seconds"] for part in parts for one in part.get("refreshes", [])]
    return round(sum(seconds), 2) if seconds else None


def report_runs(records: Sequence[Record], about: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Summarise runs, and write `results.json`, tables and figures.

    Args:
        records: From `run_variants`.
        about: What is true of all runs: at least the number of `pairs` and of `steps`.
        folder: Where to.

    Returns:
        What `results.json` holds; nothing on processes other than the main one.
    """

    def report() -> dict[str, Any]:
        results = summarise_runs(records, about)
        write_report(results, folder)
        return results

    return ProcessGroup.current("compare").once(report, {})
