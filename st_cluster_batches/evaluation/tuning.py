"""Choose how to fill batches on the user's own pairs: small models trained with each candidate, and compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.clusters.encoder import Encoder, name_model
from st_cluster_batches.clusters.kmeans import require_faiss
from st_cluster_batches.clusters.strength import warn_of_own_guide
from st_cluster_batches.columns import SOURCE
from st_cluster_batches.data.naming import list_few
from st_cluster_batches.data.pairs import Key, PairOptions, Pairs, as_datasets, prepare_parts
from st_cluster_batches.data.roles import Columns
from st_cluster_batches.evaluation.candidates import CONFIDENCE, Measured, judge_measured, list_candidates
from st_cluster_batches.evaluation.problem import TOO_FEW_QUERIES, Problem, prepare_problem
from st_cluster_batches.evaluation.start import Proxy, Start
from st_cluster_batches.evaluation.trial_runs import TrialRuns
from st_cluster_batches.evaluation.trials import Record
from st_cluster_batches.evaluation.tune_options import TuneOptions, check_part
from st_cluster_batches.evaluation.tuning_report import warn_of_replaced, write_choices
from st_cluster_batches.storage.claims import claim
from st_cluster_batches.storage.processes import ProcessGroup
from st_cluster_batches.storage.shared_cache import SharedCache
from st_cluster_batches.training.prompts import warn_of_trials_without_prompts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_TOO_FEW_ROWS = "the rows are too few for two clusters"
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
    guide_model: str | Path | SentenceTransformer | None = None,
    margin: float = 0.0,
    n_seeds: int = 3,
    n_epochs: int | None = None,
    max_rows: int = 12_000,
    seed: int = 0,
    n_workers: int | None = None,
    proxy: Proxy = "static",
    n_steps: int | None = None,
    n_layers: int | None = None,
    max_seq_length: int | None = None,
    bf16: bool = False,
    learning_rate: float | None = None,
    communities: bool = False,
    truncate_dim: int | None = None,
    trust_remote_code: bool = False,
    output_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    show_progress_bar: bool = True,
) -> Choice:
    """Choose for each source whether to cluster it and how finely, and whether to mask false negatives.

    Of each source queries are held out, with all that repeats them. Static models, distilled from the model that is to
    be trained, learn from the rest with each candidate and several seeds. See `judge_sources` for the rule that
    chooses, and `TuneOptions` for the options. A finished run is never repeated.

    Args:
        dataset: Pairs, or longer tuples, of which query and positive are used.
        encoder: The model whose vectors are clustered, as for `attach_clusters`.
        batch_size: Rows among which the loss of the training to come takes its negatives: those of one device, or of
            a global batch if it gathers across devices.
        model: The model to be trained; by default the encoder.
        key: The text that decides the clusters; of several the one that promises most for all sources is chosen.
        columns: Query and positive, in order.
        source_column: Column that names the source of a row.
        guide: Whether to try each candidate with a mask of false negatives, too.
        guide_model: The model whose vectors mask; by default the encoder. Asks for a guide by itself.
        margin: That of the mask.
        n_seeds: Runs of each candidate.
        n_epochs: Times that a run sees each pair; once by default.
        max_rows: Rows to take of each source at most, at random.
        seed: Seed of what is taken and held out.
        n_workers: Processes that run trials; 2 by default, and 1 where a GPU trains the model itself.
        proxy: `static` to train static models distilled from the model, in minutes; `model` to train it, in hours.
        n_steps: Steps of a run of the model itself, in place of epochs; in 200 MiniLM showed none of its gain.
        n_layers: Keep the first so many layers of the model itself, which is cheaper; 2 of MiniLM did not rank
            as all 6 did.
        max_seq_length: Tokens that the model itself reads of a text.
        bf16: Whether the model itself is trained and run in bfloat16 (autocast).
        learning_rate: That of the model itself; by default it is chosen for each candidate.
        communities: Whether to try communities too (B3), one in a batch and several; needs METIS.
        truncate_dim: Keep the first so many dimensions of the encoder's vectors.
        trust_remote_code: Whether code that comes with encoder and model may run.
        output_dir: Folder for `choice.json`, its figure, and `runs/`; by default runs are kept in the cache, and the
            choice is returned alone. What would be chosen by another key is in a folder of that name below `keys/`.
        cache_dir: Where vectors are kept.
        show_progress_bar: Whether to show progress.

    Returns:
        The choice: `attach_clusters(dataset, encoder, tuned=choice)` follows it.

    Raises:
        ValueError: If rows, columns or options do not fit; before any training.
        OSError: If another process works in the folder.
    """
    options = TuneOptions(
        batch_size=batch_size,
        key=key,
        columns=columns,
        source_column=source_column,
        guide=guide or guide_model is not None,
        margin=margin,
        n_seeds=n_seeds,
        n_epochs=n_epochs,
        max_rows=max_rows,
        seed=seed,
        n_workers=n_workers,
        proxy=proxy,
        n_steps=n_steps,
        n_layers=n_layers,
        max_seq_length=max_seq_length,
        bf16=bf16,
        learning_rate=learning_rate,
        communities=communities,
    )
    dataset = as_datasets(dataset, "tune")
    require_faiss()
    if ProcessGroup.current("tune").size > 1:
        raise ValueError("tune runs on one process, with workers of its own; start it without accelerate or torchrun")
    with SharedCache.open(cache_dir, show_progress_bar, "tune") as cache, ExitStack() as stack:
        output = cache.folder / "tune" if output_dir is None else Path(output_dir).expanduser()
        read = PairOptions(source_column, overwrite=True, needs_passages="tune", columns=columns)
        parts = prepare_parts(dataset, read, show_progress_bar)
        for part in parts:
            check_part(part)
        if proxy == "model":
            start = Start.load_model(model or encoder, cache.folder, n_layers, max_seq_length, trust_remote_code)
            if start.model is not None:
                warn_of_trials_without_prompts(start.model)
        else:
            start = Start.load(model or encoder, cache.folder, trust_remote_code)
        if output_dir is not None:
            output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(claim(output, "tune"))
        embedder = Encoder(encoder, cache.folder, truncate_dim, trust_remote_code=trust_remote_code)
        masking = embedder.load_beside(guide_model) if options.guide else None
        if masking is not None and masking.fingerprint == start.fingerprint:
            warn_of_own_guide(masking.name)
        tuning = Tuning(embedder, masking, name_model(model or encoder), start, options, cache, output)
        tuning.tell_of_replaced(parts)  # of a folder of one's own; nothing is in the cache
        choices = tuning.choose(parts)
        if output_dir is not None:
            write_choices(choices, output)
        return next(iter(choices.values()))


@dataclass(frozen=True)
class Tuning:
    """All that a choice needs.

    Args:
        encoder: The model whose vectors are clustered.
        guide: The model whose vectors mask, perhaps the same; None for no masks.
        model: Name of the model to be trained.
        start: The model that trials start from.
        options: The options.
        cache: Where vectors are kept.
        output: Folder of results.
    """

    encoder: Encoder
    guide: Encoder | None
    model: str
    start: Start
    options: TuneOptions
    cache: SharedCache
    output: Path

    def choose(self, parts: Sequence[Pairs]) -> dict[Key, Choice]:
        """Choose for every source, by key; the key that promises most for all of them is the first."""
        measured: dict[Key, dict[str, Measured]] = {key: {} for key in self.options.keys}
        for part in parts:
            for code, name in enumerate(part.sources):
                rows = np.flatnonzero(part.source_of_row == code)
                for key, found in self._measure_source(name, rows, part).items():
                    measured[key][name] = found
        self._tell_of_untried(next(iter(measured.values())))
        judged = {key: judge_measured(own) for key, own in measured.items()}
        promises = {key: promise for key, (*_, promise) in judged.items()}
        choices = {key: self._describe(key, *judged[key][:2], promises) for key in judged}
        return {key: choices[key] for key in sorted(promises, key=lambda key: -promises[key])}

    def _describe(
        self, key: Key, chosen: Mapping[str, Candidate], evidence: Record, promises: Mapping[Key, float]
    ) -> Choice:
        """Say what was chosen by a key, and how."""
        versions = {name: version(name) for name in _VERSIONED}
        about = {"promises": dict(promises), **self._describe_trials(), "versions": versions}
        encoder = self.encoder
        return Choice(chosen, self.options.batch_size, encoder.name, encoder.fingerprint, key, evidence, about)

    def _describe_trials(self) -> Record:
        options = self.options
        own = ("max_seq_length", "bf16", "learning_rate", "guide", "margin", "communities", "max_rows", "seed")
        return {
            "model": self.model,
            "model_hash": self.start.origin,
            "proxy": options.proxy,
            **options.length,
            "layers": options.n_layers,
            "seeds": options.n_seeds,
            "confidence": CONFIDENCE,
            **{name: getattr(options, name) for name in own},
            **self._describe_guide(),
        }

    def _describe_guide(self) -> Record:
        """Name the model that masks, where it is not the encoder."""
        if self.guide is None or self.guide.fingerprint == self.encoder.fingerprint:
            return {}
        return {"guide_model": self.guide.name, "guide_hash": self.guide.fingerprint}

    def tell_of_replaced(self, parts: Sequence[Pairs]) -> None:
        """Warn of a choice in the folder of other rows, or by other options, before it is replaced."""
        rows = {name: n_rows for part in parts for name, n_rows in part.rows_of_source.items()}
        encoder, batch_size = self.encoder.name, self.options.batch_size
        warn_of_replaced(self.output, {"batch_size": batch_size, "encoder": encoder, **self._describe_trials()}, rows)

    def _measure_source(self, name: str, rows: Any, part: Pairs) -> dict[Key, Measured]:
        """Run the trials of a source; return by key the scores of every candidate, if any, and what is known of it."""
        options = self.options
        n_rows = len(rows)
        if n_rows > options.max_rows:
            rows = np.sort(np.random.default_rng(options.seed).choice(rows, options.max_rows, replace=False))
        pairs = part.dataset.with_format(None).select(rows).select_columns(part.text_columns[:2])
        evidence: Record = {"rows": n_rows, "tuned_rows": len(rows), "columns": part.text_columns[:2]}
        found: dict[Key, Measured] = {}
        for key in options.keys:
            how = {"warns": False, "has_communities": options.communities}
            problem = prepare_problem(
                name, pairs, self.encoder, key, self.guide, self.start, self.cache, options.seed, **how
            )
            if problem is None or len(_list_candidates(problem, options)) < 2:  # with any key
                why = TOO_FEW_QUERIES if problem is None else _TOO_FEW_ROWS
                return {one: ({}, {**evidence, "why": why}) for one in options.keys}
            scores, own = self._run_trials(name, problem)
            found[key] = scores, {**evidence, **own}
        return found

    def _tell_of_untried(self, measured: Mapping[str, Measured]) -> None:
        """Warn of sources that are too small for trials, all in a line for each reason."""
        for why in (TOO_FEW_QUERIES, _TOO_FEW_ROWS):
            untried = [
                f"{name!r} ({own['rows']:,} rows, {own['tuned_rows']:,} looked at)"
                for name, (_, own) in measured.items()
                if own.get("why") == why
            ]
            if untried:
                logger.warning(
                    "%d of %d sources get one stratum, whose batches are random rows of it, since %s: %s",
                    len(untried),
                    len(measured),
                    why,
                    list_few(untried),
                )

    def _run_trials(self, name: str, problem: Problem) -> Measured:
        """Run the trials of a source by one key."""
        candidates = _list_candidates(problem, self.options)
        records = TrialRuns(self.options, self.output, self.cache.show_progress_bar).run(name, problem, candidates)
        # The queries of the rates, too: every candidate had its choice of them, and more queries tell more.
        scores = {one: np.asarray([own["tuned"] + own["ndcg"] for own in records[one]]) for one in candidates}
        n_queries = [len(problem.tuned_on.queries), len(problem.measured_on.queries)]
        return scores, {
            "trained_rows": len(problem),
            "queries": sum(n_queries),
            "guide_ndcg": problem.guide_ndcg and float(np.average(problem.guide_ndcg, weights=n_queries)),
            "ndcg": {str(one): float(own.mean()) for one, own in scores.items()},
            "rates": {str(one): records[one][0]["rate"] for one in candidates},
        }


def _list_candidates(problem: Problem, options: TuneOptions) -> list[Candidate]:
    margin = options.margin if options.guide else None
    return list_candidates(options.batch_size, len(problem), margin, options.communities)
