"""The trials of a source: which are needed, and which of them have been run before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.communities import COMMUNITIES_VERSION
from st_cluster_batches.data.naming import name_file
from st_cluster_batches.evaluation.problem import Problem
from st_cluster_batches.evaluation.trials import TRIAL_VERSION, Record, Trial, list_near_rates, list_rates, run_trials
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.storage.cache import hash_values, read_json, write_atomically

RUNS_FOLDER = "runs"


@dataclass(frozen=True)
class TrialRuns:
    """Runs trials, and keeps their records.

    Args:
        options: How trials are run.
        output: Folder of which `runs` below holds the records, one file each.
        show_progress_bar: Whether to show progress.
    """

    options: TuneOptions
    output: Path
    show_progress_bar: bool = True

    def run(self, name: str, problem: Problem, candidates: Sequence[Candidate]) -> dict[Candidate, list[Record]]:
        """Run what has not been run: several rates with one seed, and the best of each candidate with the others.

        Where a rate is given, all runs are known and start at once.
        """
        # Of communities by what they are cut from, so that those of one key are not run again with another.
        digests = {"kmeans": hash_values(TRIAL_VERSION, problem.digest())}
        if any(one.method == "communities" for one in candidates):
            digests["communities"] = hash_values(TRIAL_VERSION, COMMUNITIES_VERSION, problem.digest("communities"))
        rate = self.options.learning_rate
        found: dict[Trial, Record] = {}
        with tqdm(desc=f"Tuning {name}", unit="run", disable=not self.show_progress_bar) as bar:
            if rate is None:
                found, rates = self._search_rates(name, problem, digests, candidates, bar)
            else:
                rates = dict.fromkeys(candidates, rate)
            seeds = range(self.options.n_seeds)
            trials = {one: [Trial(one, rates[one], seed) for seed in seeds] for one in candidates}
            wanted = [trial for own in trials.values() for trial in own if trial not in found]
            bar.total = bar.n + len(wanted)
            found |= self._get_records(name, problem, digests, wanted, bar)
        return {one: [found[trial] for trial in own] for one, own in trials.items()}

    def _search_rates(
        self, name: str, problem: Problem, digests: Mapping[str, str], candidates: Sequence[Candidate], bar: Any
    ) -> tuple[dict[Trial, Record], dict[Candidate, float]]:
        """Return the records of the first seed with all rates that were tried, and the best rate of each candidate.

        The search starts from a few rates for the first candidate, from the best of these for the others, and goes on
        to half and twice the best.
        """
        baseline, *others = candidates
        found: dict[Trial, Record] = {}
        best: dict[Candidate, Trial] = {}
        starts = [Trial(baseline, rate, 0) for rate in list_rates(self.options)]
        for tried in ([baseline], others):
            wanted = starts if tried == [baseline] else [replace(best[baseline], candidate=one) for one in others]
            while wanted:
                bar.total = bar.n + len(wanted) + len(candidates) * (self.options.n_seeds - 1)
                found |= self._get_records(name, problem, digests, wanted, bar)
                best |= {one: _find_best(found, one) for one in tried}
                wanted = [one for own in tried for one in _find_neighbours(best[own], found, self.options)]
        return found, {one: trial.rate for one, trial in best.items()}

    def _get_records(
        self, name: str, problem: Problem, digests: Mapping[str, str], trials: Sequence[Trial], bar: Any
    ) -> dict[Trial, Record]:
        """Return the records of some trials, from earlier runs or from new ones, each written once it is done."""
        options = self.options
        folder = self.output / RUNS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for trial in trials:
            how = [] if options.proxy == "static" else [options.bf16, *({"epochs"} & options.length.keys())]
            (length,) = options.length.values()
            run = hash_values(
                digests[trial.candidate.method], trial.describe(), options.batch_size, options.proxy, length, *how
            )
            paths[trial] = folder / f"{name_file(name)}-{run[:16]}.json"
        found = {trial: read_json(path) for trial, path in paths.items() if path.exists()}
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
