"""The commands of the command line: each checks its input, does its work and describes the outcome.

A command takes its parsed arguments and returns a `Result`. Whatever is wrong with its input is raised within
`checking_input`, before any work. Heavy imports stay inside the functions.
"""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_cluster_batches.storage.cache import make_folder
from st_cluster_batches.storage.numbers import as_count
from st_cluster_batches.storage.processes import is_first_process
from st_cluster_batches.usage import UsageError, checking_input, explain_at_prompt, refuse_given

if TYPE_CHECKING:
    from st_cluster_batches.data.loading import Selection

Result = tuple[dict[str, Any], str]  # what --json prints, and what a person reads


def demo(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Choose and compare batches on the docstrings of the user's own Python."""
    # The libraries read both at import. The demo needs nothing from the Hub, nor progress bars of small steps.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    with checking_input():
        as_count("--seeds", arguments.seeds)
        as_count("--pairs", arguments.pairs, least=1000)
        make_folder(arguments.output)
        from st_cluster_batches.batches.plan_messages import tell_of_batches
        from st_cluster_batches.demo.comparison import gather_pairs, load_start, run_demo
        from st_cluster_batches.demo.description import describe_demo

        encoder = None if arguments.start is None else load_start(arguments.start, arguments.output)
        pairs, collections = gather_pairs(arguments.output, arguments.pairs)
    logging.getLogger(tell_of_batches.__module__).setLevel("WARNING")  # the demo logs plans itself, once
    result = run_demo(arguments.output, pairs, collections, n_seeds=arguments.seeds, encoder=encoder)
    return result, describe_demo(result)


def attach(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Label pairs, and write them with their clustering."""
    with checking_input():
        from st_cluster_batches.clusters.attach import cluster_dataset
        from st_cluster_batches.clusters.choice import find_choice, tell_of_chunks
        from st_cluster_batches.clusters.description import describe_statistics
        from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions, find_key, parse_n_clusters
        from st_cluster_batches.clusters.output import check_names, check_output, write_output
        from st_cluster_batches.data.loading import load_data

        tuned = find_choice(arguments.tuned)
        options = AttachOptions(
            ClusterOptions(
                n_clusters=parse_n_clusters(arguments.n_clusters),
                cluster_size=arguments.cluster_size,
                max_cluster_size=arguments.max_cluster_size,
                global_batch_size=arguments.global_batch_size,
                key=find_key(arguments.key, tuned),
                seed=arguments.seed,
                method=arguments.method,
            ),
            columns=arguments.columns,
            source_column=arguments.source_column,
            false_negative_threshold=arguments.false_negative_threshold,
            truncate_dim=arguments.truncate_dim,
            batch_size=arguments.batch_size,
            overwrite=arguments.overwrite,
            cache_dir=arguments.cache_dir,
            trust_remote_code=arguments.trust_remote_code,
            guide=arguments.guide,
            guide_model=arguments.guide_model,
            tuned=tuned,
        )
        check_output(arguments.out)
        tell_of_chunks(options.tuned)
        data = load_data(arguments.data, _read_selection(arguments))
        check_names(data)
        labelled, clustering = cluster_dataset(data, arguments.encoder, options)
    if is_first_process():
        write_output(arguments.out, labelled, clustering)
    told = {name: one for name, one in clustering.manifest.items() if name in ("columns", "statistics", "guide")}
    lines = [*describe_statistics(told["statistics"]), f"Labelled data and clustering are in {arguments.out}"]
    return {"output": str(arguments.out), **told}, "\n".join(lines)


def inspect(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Inspect labelled data, and write a report if --output names one."""
    with checking_input():
        from st_cluster_batches.clusters.artefact import MANIFEST_FILE
        from st_cluster_batches.clusters.clustering import Clustering
        from st_cluster_batches.data.loading import load_data
        from st_cluster_batches.evaluation.figures import require_plots
        from st_cluster_batches.inspection.measuring import inspect as inspect_data
        from st_cluster_batches.inspection.page import draw_inspection, write_page

        if arguments.output is not None:
            require_plots("A report", "matplotlib", "plotly")
            if arguments.output.is_dir():
                raise ValueError(f"{arguments.output} is a folder; name a file: {arguments.output / 'report.html'}")
            make_folder(arguments.output.parent)
        data, clustering = load_data(arguments.data, _read_selection(arguments)), None
        if (Path(arguments.data) / MANIFEST_FILE).is_file():
            clustering = Clustering.load(arguments.data, trust_remote_code=arguments.trust_remote_code)
        elif arguments.encoder is None:
            raise ValueError(f"{arguments.data} has no clustering beside it; say which model measures: --encoder")
        inspection = inspect_data(
            data,
            arguments.encoder,
            clustering=clustering,
            batch_size=arguments.batch_size,
            world_size=arguments.world_size,
            rows_per_stratum=arguments.rows_per_stratum,
            key=arguments.key,
            columns=arguments.columns,
            seed=arguments.seed,
            sample_rows=arguments.sample_rows,
            trust_remote_code=arguments.trust_remote_code,
            cache_dir=arguments.cache_dir,
        )
    lines = inspection.describe_lines()
    if arguments.output is not None:
        write_page(inspection, arguments.output)
        figures = draw_inspection(inspection, arguments.output)
        lines.append(f"The report is in {arguments.output}, its figures in {' and '.join(map(str, figures))}")
    return inspection.describe(), "\n".join(lines)


def tune(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Choose the batches of each source by trials on its own pairs."""
    with checking_input():
        from st_cluster_batches.clusters.choice import ASK_THE_MODEL, FOR_TRANSFORMERS
        from st_cluster_batches.data.loading import load_data
        from st_cluster_batches.evaluation.tune_options import TuneOptions
        from st_cluster_batches.evaluation.tuning import tune as tune_data
        from st_cluster_batches.evaluation.tuning_report import describe_tuning

        given = {one.name: getattr(arguments, one.name) for one in fields(TuneOptions)}
        given["guide"] = arguments.guide or arguments.guide_model is not None
        TuneOptions(**given)  # checked before any row is read
        make_folder(arguments.output_dir)
        data = load_data(arguments.data, _read_selection(arguments))
        others = ("model", "guide_model", "truncate_dim", "trust_remote_code", "output_dir", "cache_dir")
        given |= {name: getattr(arguments, name) for name in others}
        choice = tune_data(data, arguments.encoder, **given)
    described = choice.describe()
    lines = [describe_tuning(described), "", f"All of it is in {arguments.output_dir}, for attach --tuned"]
    if arguments.proxy == "static":
        lines.append(f"Static models chose, for a static model. {FOR_TRANSFORMERS}; or ask it: {ASK_THE_MODEL}")
    return described, "\n".join(lines)


def train(arguments: argparse.Namespace, overrides: list[str]) -> Result:
    """Train and evaluate as a recipe says."""
    with ExitStack() as stack:
        with checking_input():
            from st_cluster_batches.plans.options import StartError
            from st_cluster_batches.storage.claims import claim
            from st_cluster_batches.training.recipe import read_recipe

            recipe = read_recipe(arguments.recipe, overrides)
            output = Path(recipe.training.output_dir)
            make_folder(output)
            stack.enter_context(claim(output, "train"))
            from st_cluster_batches.training.run import prepare_run

            loaded: dict[str, Any] = {}
            if recipe.data.eval_tasks and recipe.data.held_out_queries is None:
                from st_cluster_batches.evaluation.tasks import load_tasks

                loaded = load_tasks(recipe.data.find_tasks(), recipe.data.judging)
            run, tasks = prepare_run(recipe)
        try:
            model = run.train()
        except StartError as error:
            raise UsageError(explain_at_prompt(error)) from error
        if not tasks:
            return {"model": str(model), "scores": {}}, f"The model is in {model}"
        from st_cluster_batches.evaluation.runs import evaluate_run
        from st_cluster_batches.evaluation.scores import describe_scores, summarise_scores

        scores = summarise_scores(evaluate_run(run, loaded or tasks))
    return {"model": str(model), "scores": scores}, f"{describe_scores(scores)}The model is in {model}"


def evaluate(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Evaluate a model, keeping nDCG@10 of every query."""
    with checking_input():
        as_count("--batch_size", arguments.batch_size)
        from st_cluster_batches.data.collection import Judging
        from st_cluster_batches.evaluation.retrieval import evaluate, load_evaluated
        from st_cluster_batches.evaluation.scores import describe_scores, summarise_scores
        from st_cluster_batches.evaluation.tasks import load_tasks
        from st_cluster_batches.publishing.model_files import find_model

        tasks = load_tasks(arguments.tasks, Judging(arguments.qrels, arguments.missing))
        make_folder(arguments.output)
        folder = Path(arguments.model)
        name = str(find_model(folder)) if folder.is_dir() else arguments.model  # the same as `build` takes
        model = load_evaluated(name, arguments.trust_remote_code)
    scores = summarise_scores(evaluate(model, tasks, arguments.output, batch_size=arguments.batch_size))
    return scores, f"{describe_scores(scores)}All of it is in {arguments.output}"


def compare(arguments: argparse.Namespace, overrides: list[str]) -> Result:
    """Compare batch strategies over seeds, or draw the results of an earlier comparison again."""
    from st_cluster_batches.evaluation.report import describe_results, redraw

    with ExitStack() as stack:
        with checking_input():
            beside = [arguments.recipe, arguments.output, arguments.seeds, *overrides]
            if arguments.redraw is not None and any(one is not None for one in beside):
                raise ValueError("compare --redraw DIR stands alone: it draws what is in DIR, and takes nothing else")
            if arguments.redraw is not None:
                results = redraw(arguments.redraw)
                return results, describe_results(results)
            if arguments.recipe is None or arguments.output is None:
                raise ValueError("compare takes either RECIPE.yaml with --output DIR, or --redraw DIR alone")
            make_folder(arguments.output)
            from st_cluster_batches.evaluation.comparison import Comparison

            n_seeds = 3 if arguments.seeds is None else arguments.seeds
            comparison = stack.enter_context(Comparison.open(arguments.recipe, arguments.output, n_seeds, overrides))
        results = comparison.run()
    if not results:
        return {}, ""  # not the main process
    return results, f"{describe_results(results)}\n\nAll of it is in {arguments.output}"


def build(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Fill a folder with what may be published."""
    with checking_input():
        folder = _build(arguments, arguments.output)
    return {"output": str(folder)}, f"What may be published is in {folder}"


def publish(arguments: argparse.Namespace, _: list[str]) -> Result:
    """Push a folder that `build` filled, or build and push."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as temporary, checking_input():
        from st_cluster_batches.publishing.dataset_card import DATA
        from st_cluster_batches.publishing.hub import bound_requests, push
        from st_cluster_batches.publishing.model_files import find_model
        from st_cluster_batches.publishing.staging import is_staged

        staged = is_staged(arguments.folder)
        if staged:
            names = ("scores", "comparison", "license", "language", "datasets", "base_model", "include-samples")
            refuse_given(arguments, names, "what `build` made, which is pushed as it is")
        stage = arguments.folder if staged else _build(arguments, Path(temporary) / "stage")
        is_model = not (stage / DATA).is_dir()
        if is_model:
            # A folder with a card but no model, as in hub_cards of this project, would remove the model on the Hub.
            find_model(stage)
        bound_requests()
        done = push(
            stage,
            arguments.repo_id,
            kind="model" if is_model else "dataset",
            private=arguments.private,
            revision=arguments.revision,
            create_pr=arguments.create_pr,
            dry_run=arguments.dry_run,
        )
    verb = "would be" if arguments.dry_run else "were"
    lines = [f"{path} {verb} pushed" for path in done.uploaded] + [f"{path} {verb} removed" for path in done.removed]
    lines.append(done.url if lines else f"Nothing has changed since it was last published: {done.url}")
    return vars(done), "\n".join(lines)


def _read_selection(arguments: argparse.Namespace) -> Selection:
    from st_cluster_batches.data.loading import Selection

    # Beside the embeddings where they are told where to go: the home folder may not be writable.
    cache_dir = getattr(arguments, "cache_dir", None)
    rows = None if cache_dir is None else str(Path(cache_dir) / "rows")
    names = ("split", "config", "revision", "queries", "corpus", "positive_label", "max_negatives")
    tells_sources = getattr(arguments, "source_column", "source") == "source"  # else a column tells, or there are none
    return Selection(**{name: getattr(arguments, name) for name in names}, tells_sources=tells_sources, cache_dir=rows)


def _build(arguments: argparse.Namespace, output: Path) -> Path:
    from st_cluster_batches.clusters.output import is_saved_data
    from st_cluster_batches.publishing.dataset_card import build_dataset
    from st_cluster_batches.publishing.front_matter import Description
    from st_cluster_batches.publishing.staging import build_model

    about = Description(
        arguments.license, arguments.language, arguments.datasets, arguments.base_model, arguments.include_samples
    )
    if is_saved_data(arguments.folder):
        refuse_given(arguments, ("scores", "comparison", "base_model", "include-samples"), "labelled data")
        return build_dataset(arguments.folder, output, about)
    return build_model(arguments.folder, output, about, scores=arguments.scores, comparison=arguments.comparison)
