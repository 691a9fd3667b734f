"""The command line: results on stdout, progress and logs on stderr; exit code 1 for a failure, 2 for bad input."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from st_cluster_batches.evaluation import TaskScores

# Nothing heavier is imported here: `--help` should answer at once.

Result = tuple[dict[str, Any], str]  # what --json prints, and what a person reads


class _UsageError(Exception):
    """Bad input, found before any work."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


@contextmanager
def _checking_input() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise _UsageError(" ".join(str(error).split())) from error


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        words: The command line without the program's name; `sys.argv` by default.

    Returns:
        The exit code: 0, 1 if the command failed, 2 if its input is at fault.
    """
    try:
        arguments, rest = _build_parser().parse_known_args(words)
        if rest and arguments.command != "train":
            raise _UsageError(f"unrecognised arguments: {' '.join(rest)}")
        if arguments.offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # read when the Hugging Face libraries are imported
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger("st_cluster_batches").setLevel(logging.INFO)
        logging.getLogger("mteb").setLevel(logging.ERROR)  # it warns of every model that is on no leaderboard
        warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")
        # Trainers and progress bars write to stdout, which is for results.
        with redirect_stdout(sys.stderr):
            result, text = arguments.run(arguments, rest)
        print(json.dumps(result) if arguments.json else text, flush=True)
    except _UsageError as error:
        print(f"st-cluster-batches: error: {error}", file=sys.stderr)
        return 2
    except ConnectionError as error:
        print(f"st-cluster-batches: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("st-cluster-batches: interrupted", file=sys.stderr)
        return 130
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="st-cluster-batches",
        description="Fill contrastive batches from one topic, and see whether it makes a better retriever.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        command.add_argument("--offline", action="store_true", help="never ask the Hub")
        command.set_defaults(run=run)
        return command

    demo = add("demo", _demo, "compare batch strategies on the docstrings of your own Python, without a network")
    demo.add_argument("--output", type=Path, default=Path("st-cluster-batches-demo"), metavar="DIR")
    demo.add_argument("--pairs", type=int, default=None, metavar="N", help="training pairs at most")
    demo.add_argument("--seeds", type=int, default=3, metavar="N", help="training runs of each strategy")

    attach = add("attach", _attach, "label pairs with clusters and false-negative groups")
    attach.add_argument("data", metavar="DATA", help="parquet file or folder, save_to_disk folder, or Hub id")
    attach.add_argument("out", metavar="OUT", type=Path, help="folder for the labelled data and its clustering")
    attach.add_argument("--encoder", required=True, help="path or Hub id of a model; `static:` before it distils it")
    size = attach.add_mutually_exclusive_group()
    size.add_argument("--n_clusters", type=int, metavar="K", help="clusters of each source (default 10)")
    size.add_argument("--cluster_size", type=int, metavar="S", help="mean rows of a cluster, instead")
    attach.add_argument("--key", choices=("query", "passage", "both"), default="query", help="text that is clustered")
    attach.add_argument("--source_column", default="source", metavar="NAME", help="column that names a row's source")
    attach.add_argument("--seed", type=int, default=0, metavar="N")
    attach.add_argument("--batch_size", type=int, default=32, metavar="N", help="texts that the encoder sees at once")
    attach.add_argument("--overwrite", action="store_true", help="replace label columns that the data has")

    train = add("train", _train, "train and evaluate as a recipe says")
    train.add_argument("recipe", metavar="RECIPE.yaml", type=Path)
    train.epilog = "Any key of the recipe can be given as --key value, for instance --batch_sampler random."

    evaluate = add("evaluate", _evaluate, "evaluate retrieval with mteb, keeping nDCG@10 of every query")
    evaluate.add_argument("model", metavar="MODEL", help="path or Hub id")
    evaluate.add_argument("--tasks", nargs="+", required=True, metavar="NAME_OR_DIR", help="mteb task or BEIR folder")
    evaluate.add_argument("--output", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--batch_size", type=int, default=32, metavar="N")
    return parser


def _demo(arguments: argparse.Namespace, _: list[str]) -> Result:
    # Both are read at import: nothing is on the Hub here, and the small steps need no bars of their own.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    with _checking_input():
        if arguments.seeds < 1 or (arguments.pairs is not None and arguments.pairs < 1000):
            raise ValueError(f"--seeds {arguments.seeds} must be at least 1, and --pairs {arguments.pairs} 1000")
        _make_folder(arguments.output)
        from st_cluster_batches.demo import run_demo

    result = run_demo(arguments.output, n_seeds=arguments.seeds, max_pairs=arguments.pairs)
    return result, _describe_demo(result)


def _attach(arguments: argparse.Namespace, _: list[str]) -> Result:
    with _checking_input():
        from st_cluster_batches.attach import cluster_dataset
        from st_cluster_batches.clustering import ClusterOptions
        from st_cluster_batches.data import load_data

        options = ClusterOptions(arguments.n_clusters, arguments.cluster_size, arguments.key, arguments.seed)
        labelled, clustering = cluster_dataset(
            load_data(arguments.data),
            arguments.encoder,
            options,
            source_column=arguments.source_column,
            batch_size=arguments.batch_size,
            overwrite=arguments.overwrite,
        )
        _make_folder(arguments.out)
    labelled.save_to_disk(str(arguments.out))
    clustering.save(arguments.out)
    statistics = clustering.manifest["statistics"]
    lines = [f"{'source':<24}{'rows':>10}{'clusters':>10}{'smallest':>10}{'largest':>10}{'similarity':>12}"]
    for name, one in statistics.items():
        counts = (one["rows"], one["clusters"], min(one["sizes"]), max(one["sizes"]))
        lines.append(f"{name:<24}" + "".join(f"{count:>10,}" for count in counts) + f"{one['objective']:>12.3f}")
    lines.append(f"Labelled data and clustering are in {arguments.out}")
    return {"output": str(arguments.out), "statistics": statistics}, "\n".join(lines)


def _train(arguments: argparse.Namespace, overrides: list[str]) -> Result:
    with _checking_input():
        from st_cluster_batches.recipe import read_recipe

        recipe = read_recipe(arguments.recipe, overrides)
        tasks = recipe.data.find_tasks()
        if tasks:
            from st_cluster_batches.evaluation import check_tasks, evaluate

            check_tasks(tasks)
        from st_cluster_batches.training import prepare_run

        run = prepare_run(recipe)
    model = run.train()
    scores = {}
    if tasks:
        scores = _summarise(evaluate(run.trainer.model, tasks, Path(recipe.training.output_dir) / "evaluation"))
    return {"model": str(model), "scores": scores}, f"{_describe_scores(scores)}The model is in {model}"


def _evaluate(arguments: argparse.Namespace, _: list[str]) -> Result:
    with _checking_input():
        from sentence_transformers import SentenceTransformer

        from st_cluster_batches.evaluation import check_tasks, evaluate

        check_tasks(arguments.tasks)
        _make_folder(arguments.output)
        model = SentenceTransformer(arguments.model)
    scores = _summarise(evaluate(model, arguments.tasks, arguments.output, batch_size=arguments.batch_size))
    return scores, f"{_describe_scores(scores)}All of it is in {arguments.output}"


def _summarise(scores: dict[str, TaskScores]) -> dict[str, Any]:
    return {task: {"ndcg_at_10": one.ndcg_at_10, "queries": one.queries} for task, one in scores.items()}


def _describe_scores(scores: dict[str, Any]) -> str:
    if not scores:
        return ""
    lines = [f"{'task':<32}{'queries':>10}{'nDCG@10':>10}"]
    lines += [f"{task:<32}{one['queries']:>10,}{one['ndcg_at_10']:>10.4f}" for task, one in scores.items()]
    mean = sum(one["ndcg_at_10"] for one in scores.values()) / len(scores)
    return "\n".join([*lines, f"{'mean':<32}{'':>10}{mean:>10.4f}\n"])


def _describe_demo(result: dict[str, Any]) -> str:
    """Say what was found, whoever wins."""
    from statistics import fmean, stdev

    def describe(values: list[float]) -> str:
        return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")

    scores, n_seeds = result["ndcg_at_10"], result["seeds"]
    means = {name: [fmean(seed) for seed in zip(*by_task.values(), strict=True)] for name, by_task in scores.items()}
    lines = [
        f"{result['pairs']:,} pairs of {result['sources']} packages, {n_seeds} seeds; nDCG@10: mean ± deviation",
        f"{'batches':<10}" + "".join(f"{task:>20}" for task in [*scores["random"], "mean"]) + f"{'to random':>12}",
    ]
    for name, by_task in scores.items():
        cells = "".join(f"{describe(values):>20}" for values in [*by_task.values(), means[name]])
        lines.append(f"{name:<10}{cells}{fmean(means[name]) / fmean(means['random']) - 1:>+12.1%}")
    wins = sum(ours > theirs for ours, theirs in zip(means["cluster"], means["random"], strict=True))
    lines.append(f"Cluster batches beat random ones in {wins} of {n_seeds} seeds.")
    lines.append(f"The cluster model of the first seed: SentenceTransformer({result['model']!r})")
    return "\n".join(lines)


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a folder is needed")
    path.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
