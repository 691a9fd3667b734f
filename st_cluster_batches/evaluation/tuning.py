"""Choose how to fill batches on the user's own pairs: small models trained with each candidate, and compared."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.kmeans import require_faiss
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.pairs import Key, PairOptions, Pairs, as_datasets, prepare_parts
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.evaluation.candidates import judge_sources, list_candidates, sum_promises
from st_cluster_batches.evaluation.problem import prepare_problem
from st_cluster_batches.evaluation.significance import Scores
from st_cluster_batches.evaluation.start import Proxy, Start
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.trials import Record
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.evaluation.tuning_report import write_tuning
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.storage.shared_cache import SharedCache

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_VERSIONED = ("st-cluster-batches", "sentence-transformers", "torch")


def tune(
    dataset: Dataset | DatasetDict,
    encoder: str | Path | SentenceTransformer,
    *,
    batch_size: int,
    model: str | Path | SentenceTransformer | None = None,
    key: Key | Sequence[Key] = "query",
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
        batch_size: Rows among which the loss of the training to come takes its negatives: those of one device, or of
            a global batch if it gathers across devices.
        model: The model to be trained; by default the encoder.
        key: The text that decides the clusters; of several the one that promises most for all sources is chosen.
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
        """Choose for every source, with the key that promises most for all of them, and write what was found."""
        found = {key: self._choose_by(key, parts) for key in self.options.keys}
        key = max(found, key=lambda one: found[one][2])
        chosen, evidence, _ = found[key]
        choice = Choice(
            chosen,
            self.options.batch_size,
            self.encoder.name,
            self.encoder.fingerprint,
            key,
            evidence,
            {
                "promises": {one: promise for one, (*_, promise) in found.items()},
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

    def _choose_by(self, key: Key, parts: Sequence[Pairs]) -> tuple[dict[str, Candidate], Record, float]:
        """Choose by one key: return what is chosen for each source, what is known of it, and the gain of a row."""
        scores, evidence = {}, {}
        for part in parts:
            for code, name in enumerate(part.sources):
                rows = np.flatnonzero(part.source_of_row == code)
                scores[name], evidence[name] = self._measure_source(name, key, rows, part)
        weights = {name: evidence[name]["rows"] for name, own in scores.items() if own}
        verdicts = judge_sources({name: scores[name] for name in weights}, weights)
        for name, verdict in verdicts.items():
            evidence[name] |= {
                "differences": verdict.describe(),
                "chosen": str(verdict.chosen),
                "why": verdict.why,
            }
        chosen = {name: verdicts[name].chosen if name in verdicts else Candidate() for name in scores}
        n_rows = sum(one["rows"] for one in evidence.values())
        return chosen, evidence, sum_promises(verdicts, weights) / max(1, n_rows)

    def _measure_source(self, name: str, key: Key, rows: Any, part: Pairs) -> tuple[dict[Candidate, Scores], Record]:
        """Run the trials of a source; return the scores of every candidate, if any, and what is known of them."""
        options = self.options
        n_rows = len(rows)
        if n_rows > options.max_rows:
            rows = np.sort(np.random.default_rng(options.seed).choice(rows, options.max_rows, replace=False))
        pairs = part.dataset.with_format(None).select(rows).select_columns(part.text_columns[:2])
        evidence: Record = {"rows": n_rows, "tuned_rows": len(rows)}
        problem = prepare_problem(name, pairs, self.encoder, key, options.guide, self.start, self.cache)
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
        records = TrialRuns(options, self.output, self.cache.show_progress_bar).run(name, problem, candidates)
        scores = {one: np.asarray([own["ndcg"] for own in records[one]]) for one in candidates}
        return scores, {
            **evidence,
            "trained_rows": len(problem),
            "queries": len(problem.measured_on.queries),
            "guide_ndcg": problem.guide_ndcg,
            "ndcg": {str(one): float(own.mean()) for one, own in scores.items()},
            "rates": {str(one): records[one][0]["rate"] for one in candidates},
        }
