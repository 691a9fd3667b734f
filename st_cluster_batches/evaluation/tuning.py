"""Choose how to fill batches on the user's own pairs: small models trained with each candidate, and compared."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.kmeans import require_faiss
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.naming import name_file
from st_cluster_batches.data.pairs import Key, PairOptions, Pairs, as_datasets, prepare_parts
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.evaluation.candidates import judge_sources, list_candidates
from st_cluster_batches.evaluation.problem import Problem, prepare_problem
from st_cluster_batches.evaluation.significance import Scores
from st_cluster_batches.evaluation.start import Proxy, Start
from st_cluster_batches.evaluation.trials import TRIAL_VERSION, Record, Trial, list_near_rates, list_rates, run_trials
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.evaluation.tuning_report import write_tuning
from st_cluster_batches.storage.cache import hash_values, write_atomically
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

RUNS_FOLDER = "runs"

_VERSIONED = ("st-cluster-batches", "sentence-transformers", "torch")


def tune(
    dataset: Dataset | DatasetDict,
    encoder: str | Path | SentenceTransformer,
    *,
    batch_size: int,
    model: str | Path | SentenceTransformer | None = None,
    key: Key = "query",
    columns: Columns | None = None,
    source_column: str | None = SOURCE,
    guide: bool = False,
    margin: float = 0.0,
    n_seeds: int = 3,
    n_epochs: int | None = None,
    max_rows: int = 12_000,
    seed: int = 0,
    n_workers: int = 2,
    proxy: Proxy = "static",
    n_steps: int | None = None,
    n_layers: int | None = None,
    max_seq_length: int | None = None,
    bf16: bool = False,
    learning_rate: float | None = None,
    communities: bool = False,
    output_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> Choice:
    """Choose for each source whether to cluster it and how finely, and whether to mask false negatives.

    Of each source queries are held out, with all that repeats them. Static models, distilled from the model that is to
    be trained, learn from the rest with each candidate and several seeds. See `judge` for the rule that chooses, and
    `TuneOptions` for the options. A finished run is never repeated.

    Args:
        dataset: Pairs, or longer tuples, of which query and positive are used.
        encoder: The model whose vectors are clustered, as for `attach_clusters`.
        batch_size: Rows of a global batch of the training to come.
        model: The model to be trained; by default the encoder.
        key: The text that decides the clusters.
        columns: Query and positive, in order.
        source_column: Column that names the source of a row.
        guide: Whether to try each candidate with a mask of false negatives, by the encoder's vectors.
        margin: That of the mask.
        n_seeds: Runs of each candidate.
        n_epochs: Times that a run of static models sees each pair; once by default.
        max_rows: Rows to take of each source at most, at random.
        seed: Seed of what is taken and held out.
        n_workers: Processes that run trials.
        proxy: `static` to train static models distilled from the model, in minutes; `model` to train it, in hours.
        n_steps: Steps of a run of the model itself; 200 by default.
        n_layers: Keep the first so many layers of the model itself, which is cheaper and ranks much alike.
        max_seq_length: Tokens that the model itself reads of a text.
        bf16: Whether the model itself is trained and run in bfloat16 (autocast).
        learning_rate: That of the model itself; by default it is chosen for each candidate.
        communities: Whether to try communities too (B3); needs `guide` and METIS.
        output_dir: Folder for `choice.json`, `results.json`, table, figure, and `runs/`; in the cache by default.
        cache_dir: Where vectors are kept.
        show_progress_bar: Whether to show progress.

    Returns:
        The choice: `attach_clusters(dataset, encoder, tuned=choice)` follows it.

    Raises:
        ValueError: If rows, columns or options do not fit; before any training.
    """
    options = TuneOptions(
        batch_size,
        key,
        columns,
        source_column,
        guide,
        margin,
        n_seeds,
        n_epochs,
        max_rows,
        seed,
        n_workers,
        proxy,
        n_steps,
        n_layers,
        max_seq_length,
        bf16,
        learning_rate,
        communities,
    )
    dataset = as_datasets(dataset, "tune")
    require_faiss()
    if ProcessGroup.current("tune").size > 1:
        raise ValueError("tune runs on one process, with workers of its own; start it without accelerate or torchrun")
    with SharedCache.open(cache_dir, show_progress_bar, "tune") as cache:
        output = cache.folder / "tune" if output_dir is None else Path(output_dir)
        parts = prepare_parts(dataset, PairOptions(source_column, True, "tune", columns), show_progress_bar)
        for part in parts:
            _check_part(part)
        if proxy == "model":
            start = Start.load_model(model or encoder, cache.folder, n_layers, max_seq_length)
        else:
            start = Start.load(model or encoder, cache.folder)
        tuning = Tuning(Encoder(encoder, cache.folder), start, options, cache, output)
        return tuning.choose(parts)


def _check_part(part: Pairs) -> None:
    """Check that a dataset is trained on with in-batch negatives, and say what of it is not used."""
    where = f"Dataset {part.name!r}" if part.name else "The dataset"
    if part.targets:
        raise ValueError(
            f"{where} has {part.targets}: losses of labelled pairs take no in-batch negatives, so batches change "
            "nothing; remove the column to tune on the pairs"
        )
    if negatives := part.text_columns[2:]:
        logger.warning("%s: trials take no explicit negatives; %s are left aside", where, negatives)


@dataclass(frozen=True)
class Tuning:
    """All that a choice needs.

    Args:
        encoder: The model whose vectors are clustered.
        start: The static model that trials start from.
        options: The options.
        cache: Where vectors are kept.
        output: Folder of results.
    """

    encoder: Encoder
    start: Start
    options: TuneOptions
    cache: SharedCache
    output: Path

    def choose(self, parts: Sequence[Pairs]) -> Choice:
        """Choose for every source, and write what was found."""
        scores, evidence = {}, {}
        for part in parts:
            for code, name in enumerate(part.sources):
                rows = np.flatnonzero(part.source_of_row == code)
                scores[name], evidence[name] = self._measure_source(name, rows, part)
        measured = {name: own for name, own in scores.items() if own}
        verdicts = judge_sources(measured, {name: evidence[name]["rows"] for name in measured})
        for name, verdict in verdicts.items():
            evidence[name] |= {
                "differences": verdict.describe(),
                "chosen": str(verdict.chosen),
                "why": verdict.why,
            }
        chosen = {name: verdicts[name].chosen if name in verdicts else Candidate() for name in scores}
        choice = Choice(
            chosen,
            self.options.batch_size,
            self.encoder.name,
            self.encoder.fingerprint,
            self.options.key,
            evidence,
            {
                "proxy": self.options.proxy,
                "steps" if self.options.proxy == "model" else "epochs": self.options.length,
                "layers": self.options.n_layers,
                "seeds": self.options.n_seeds,
                "max_rows": self.options.max_rows,
                "seed": self.options.seed,
                "versions": {name: version(name) for name in _VERSIONED},
            },
        )
        choice.save(self.output)
        write_tuning(choice.describe(), self.output)
        return choice

    def _measure_source(self, name: str, rows: Any, part: Pairs) -> tuple[dict[Candidate, Scores], Record]:
        """Run the trials of a source; return the scores of every candidate, if any, and what is known of them."""
        options = self.options
        n_rows = len(rows)
        if n_rows > options.max_rows:
            rows = np.sort(np.random.default_rng(options.seed).choice(rows, options.max_rows, replace=False))
        pairs = part.dataset.with_format(None).select(rows).select_columns(part.text_columns[:2])
        evidence: Record = {"rows": n_rows, "tuned_rows": len(rows)}
        problem = prepare_problem(name, pairs, self.encoder, options.key, options.guide, self.start, self.cache)
        if problem is None:
            return {}, {**evidence, "why": "too few queries can be held out"}
        margin = options.margin if options.guide else None
        candidates = list_candidates(options.batch_size, len(problem), margin, options.communities)
        if len(candidates) == 1:
            logger.warning(
                "Source %r has %d rows, too few for two clusters in batches of %d. It gets one stratum",
                name,
                len(problem),
                options.batch_size,
            )
            return {}, {**evidence, "why": "too few rows for clusters"}
        records = self.run(name, problem, candidates)
        scores = {one: np.asarray([own["ndcg"] for own in records[one]]) for one in candidates}
        return scores, {
            **evidence,
            "trained_rows": len(problem),
            "queries": len(problem.measured_on.queries),
            "guide_ndcg": problem.guide_ndcg,
            "ndcg": {str(one): float(own.mean()) for one, own in scores.items()},
            "rates": {str(one): records[one][0]["rate"] for one in candidates},
        }

    def run(self, name: str, problem: Problem, candidates: Sequence[Candidate]) -> dict[Candidate, list[Record]]:
        """Run what has not been run: several rates with one seed, and the best of each candidate with the others.

        The search starts from a few rates for the first candidate, from the best of these for the others, and goes on
        to half and twice the best.
        """
        seeds = range(1, self.options.n_seeds)
        baseline, *others = candidates
        digest = hash_values(TRIAL_VERSION, problem.digest())
        with tqdm(desc=f"Tuning {name}", unit="run", disable=not self.cache.show_progress_bar) as bar:
            found: dict[Trial, Record] = {}
            best: dict[Candidate, Trial] = {}
            starts = [Trial(baseline, rate, 0) for rate in list_rates(self.options)]
            for tried in ([baseline], others):
                wanted = starts if tried == [baseline] else [replace(best[baseline], candidate=one) for one in others]
                while wanted:
                    bar.total = bar.n + len(wanted) + len(candidates) * len(seeds)
                    found |= self._get_records(name, problem, digest, wanted, bar)
                    best |= {one: _find_best(found, one) for one in tried}
                    wanted = [one for own in tried for one in _find_neighbours(best[own], found, self.options)]
            rest = [replace(trial, seed=seed) for trial in best.values() for seed in seeds]
            found |= self._get_records(name, problem, digest, rest, bar)
        return {one: [found[replace(best[one], seed=seed)] for seed in (0, *seeds)] for one in candidates}

    def _get_records(
        self, name: str, problem: Problem, digest: str, trials: Sequence[Trial], bar: Any
    ) -> dict[Trial, Record]:
        """Return the records of some trials, from earlier runs or from new ones, each written once it is done."""
        options = self.options
        folder = self.output / RUNS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for trial in trials:
            how = [] if options.proxy == "static" else [options.bf16]
            run = hash_values(digest, trial.describe(), options.batch_size, options.proxy, options.length, *how)
            paths[trial] = folder / f"{name_file(name)}-{run[:16]}.json"
        found = {trial: json.loads(path.read_text(encoding="utf-8")) for trial, path in paths.items() if path.exists()}
        bar.update(len(found))
        missing = [trial for trial in trials if trial not in found]
        for trial, record in run_trials(problem, missing, options):
            found[trial] = {"source": name, **trial.describe(), **record}
            write_atomically(paths[trial], json.dumps(found[trial]) + "\n")
            bar.update()
        return found


def _find_best(records: Mapping[Trial, Record], candidate: Candidate) -> Trial:
    """Return the trial of a candidate whose rate did best on the queries that rates are chosen on."""
    return max((one for one in records if one.candidate == candidate), key=lambda one: records[one]["tuned_ndcg"])


def _find_neighbours(best: Trial, records: Mapping[Trial, Record], options: TuneOptions) -> list[Trial]:
    """Return the trials with half and with twice the best rate that have not been run."""
    near = [replace(best, rate=rate) for rate in list_near_rates(options, best.rate)]
    return [one for one in near if one not in records]
