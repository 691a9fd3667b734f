"""The words of the command line: which commands there are, and what each of them takes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from st_cluster_batches.usage import UsageError

_KEYS = ("query", "passage", "both", "symmetric")

_Add = Callable[[str, str], argparse.ArgumentParser]  # adds a command by its name and what it does


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; what it does not know stays in the words, as the keys of a recipe."""
    parser = _Parser(
        prog="st-cluster-batches",
        description="Fill contrastive batches from one topic or a few, and see whether it makes a better retriever.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        command.add_argument("--offline", action="store_true", help="never ask the Hub")
        return command

    for add_command in (_add_demo, _add_attach, _add_inspect, _add_tune, _add_training, _add_publishing):
        add_command(add)
    return parser


def _add_demo(add: _Add) -> None:
    demo = add("demo", "choose and compare batches on the docstrings of your own Python, without a network")
    demo.add_argument("--output", type=Path, default=Path("st-cluster-batches-demo"), metavar="DIR")
    # So that it takes minutes however many packages there are.
    demo.add_argument("--pairs", type=int, default=10_000, metavar="N", help="training pairs at most (10000)")
    demo.add_argument("--seeds", type=int, default=3, metavar="N", help="training runs of each strategy")
    demo.add_argument(
        "--start",
        metavar="MODEL",
        help="path of the model that training starts from, distilled to token embeddings; by default these are fitted "
        "to the docstrings",
    )


def _add_attach(add: _Add) -> None:
    attach = add("attach", "label pairs with clusters and false-negative keys")
    attach.add_argument("data", metavar="DATA", help="file or folder of rows, save_to_disk folder, or Hub id")
    attach.add_argument("out", metavar="OUT", type=Path, help="folder for the labelled data and its clustering")
    attach.add_argument("--encoder", required=True, help="path or Hub id of a model; `static:` before it distils it")
    size = attach.add_mutually_exclusive_group()
    size.add_argument("--n_clusters", metavar="K", help="clusters of each source (default 10), or auto")
    size.add_argument("--cluster_size", type=int, metavar="S", help="mean rows of a cluster, instead")
    size.add_argument("--tuned", type=Path, metavar="DIR", help="output of `tune`, which says how large clusters are")
    attach.add_argument("--max_cluster_size", type=int, metavar="S", help="split clusters of more rows")
    attach.add_argument(
        "--global_batch_size", type=int, default=1024, metavar="N", help="for --n_clusters auto: eight of it a cluster"
    )
    attach.add_argument(
        "--method",
        choices=("kmeans", "communities"),
        default="kmeans",
        help="how clusters are made: communities are cut by METIS from the passages nearest to each query",
    )
    attach.add_argument("--key", choices=_KEYS, help="text that is clustered; as tuned if not given, or the query")
    _add_columns(attach)
    _add_source_column(attach)
    attach.add_argument("--seed", type=int, default=0, metavar="N")
    attach.add_argument(
        "--false_negative_threshold",
        type=float,
        metavar="T",
        help="passages more similar than this are false negatives of one another; equal texts alone by default",
    )
    _add_selection(attach)
    _add_trust(attach)
    attach.add_argument("--truncate_dim", type=int, metavar="D", help="dimensions to keep of the encoder's vectors")
    attach.add_argument("--batch_size", type=int, metavar="N", help="texts that the encoder sees at once")
    attach.add_argument("--cache_dir", metavar="DIR", help="where embeddings are kept; share it between nodes")
    attach.add_argument(
        "--guide", action="store_true", help="keep the vectors of all texts, by which the guided losses mask"
    )
    attach.add_argument("--guide_model", help="model whose vectors these are; the encoder by default")
    attach.add_argument("--overwrite", action="store_true", help="replace label columns that the data has")


def _add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust_remote_code", action="store_true", help="run the code that comes with the model, from the Hub"
    )


def _add_source_column(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--source_column",
        type=lambda name: None if name.lower() == "none" else name,
        default="source",
        metavar="NAME",
        help="column that names a row's source, or none",
    )


def _add_columns(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="query, positive and negatives, in order; by default all columns of text, in theirs",
    )


def _add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument("--split", metavar="S", help="split of DATA, or several joined by +; `train` by default")
    command.add_argument("--config", metavar="NAME", help="configuration of DATA, on the Hub")
    command.add_argument("--revision", metavar="R", help="branch, tag or commit of DATA, on the Hub")
    command.add_argument(
        "--queries", metavar="FILE", help="texts of the query ids in DATA; a configuration on the Hub"
    )
    command.add_argument("--corpus", metavar="FILE", help="texts of the passage ids in DATA, likewise")
    command.add_argument("--positive_label", metavar="L", help="keep the pairs of DATA with this label alone")
    command.add_argument(
        "--max_negatives", type=int, metavar="N", help="columns of negatives, where DATA has lists of them"
    )


def _add_inspect(add: _Add) -> None:
    inspect = add("inspect", "see cluster sizes, topics and hardness of the batches before training on them")
    inspect.add_argument("data", metavar="DATA", help="labelled data, as `attach` leaves it")
    _add_selection(inspect)
    inspect.add_argument("--encoder", help="model that measures similarity; by default the clustering's, beside DATA")
    _add_trust(inspect)
    inspect.add_argument("--batch_size", type=int, default=128, metavar="B", help="rows of a batch on one device")
    inspect.add_argument("--world_size", type=int, default=1, metavar="W", help="devices that step together")
    inspect.add_argument(
        "--rows_per_stratum",
        type=int,
        metavar="N",
        help="rows of each cluster in a batch of several; as tuned if not given",
    )
    inspect.add_argument("--key", choices=_KEYS, help="text that was clustered; by default the clustering's, or query")
    _add_columns(inspect)
    inspect.add_argument("--seed", type=int, default=0, metavar="N")
    inspect.add_argument(
        "--sample_rows", type=int, default=2048, metavar="N", help="rows to embed of each kind of batch"
    )
    inspect.add_argument(
        "--cache_dir", metavar="DIR", help="where `attach` keeps embeddings: they are taken from there"
    )
    inspect.add_argument("--output", type=Path, metavar="REPORT.html", help="write a report to open in a browser")


def _add_tune(add: _Add) -> None:
    tune = add("tune", "choose how fine the clusters of each source should be, by trials on its own pairs")
    tune.add_argument("data", metavar="DATA", help="file or folder of rows, save_to_disk folder, or Hub id")
    _add_selection(tune)
    tune.add_argument("--encoder", required=True, help="model whose vectors are clustered, as for `attach`")
    tune.add_argument(
        "--output",
        dest="output_dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the choice; a rerun goes on",
    )
    tune.add_argument(
        "--batch_size",
        type=int,
        default=128,
        metavar="B",
        help="rows among which the loss takes negatives: of one device, or of all if it gathers (128)",
    )
    tune.add_argument("--model", help="model that will be trained; the encoder by default")
    tune.add_argument("--truncate_dim", type=int, metavar="D", help="dimensions to keep of the encoder's vectors")
    _add_trust(tune)
    tune.add_argument("--guide", action="store_true", help="try to mask false negatives, too")
    tune.add_argument("--guide_model", help="model whose vectors mask; the encoder by default")
    tune.add_argument("--margin", type=float, default=0.0, metavar="M", help="similarity above the positive's to mask")
    tune.add_argument(
        "--key",
        nargs="+",
        choices=_KEYS,
        default=["query"],
        help="text that is clustered; of several the best, the others go to DIR/keys",
    )
    _add_columns(tune)
    _add_source_column(tune)
    tune.add_argument("--communities", action="store_true", help="try communities too; needs METIS")
    tune.add_argument("--cache_dir", metavar="DIR", help="where embeddings are kept")
    _add_trials(tune)


def _add_trials(tune: argparse.ArgumentParser) -> None:
    trials = tune.add_argument_group("trials")
    trials.add_argument(
        "--max_rows", type=int, default=12_000, metavar="N", help="rows of a source to try on, at random (12000)"
    )
    trials.add_argument(
        "--seeds", dest="n_seeds", type=int, default=3, metavar="N", help="runs of each candidate (3; at least 2)"
    )
    trials.add_argument("--seed", type=int, default=0, metavar="N", help="of what is held out")
    trials.add_argument(
        "--workers",
        dest="n_workers",
        type=int,
        metavar="N",
        help="processes that run trials (2; 1 where a GPU trains the model)",
    )
    trials.add_argument(
        "--proxy",
        choices=("static", "model"),
        default="static",
        help="train static models (minutes), or the model (hours)",
    )
    trials.add_argument("--epochs", dest="n_epochs", type=int, metavar="N", help="times that a run sees each pair (1)")
    model = tune.add_argument_group("trials with --proxy model")
    model.add_argument("--steps", dest="n_steps", type=int, metavar="N", help="of a run, in place of epochs")
    model.add_argument("--layers", dest="n_layers", type=int, metavar="N", help="train its first N layers alone")
    model.add_argument("--max_seq_length", type=int, metavar="N", help="tokens that it reads of a text")
    model.add_argument("--learning_rate", type=float, metavar="R", help="chosen by candidate if not given")
    model.add_argument("--bf16", action="store_true", help="train and embed in bfloat16")


def _add_training(add: _Add) -> None:
    train = add("train", "train and evaluate as a recipe says")
    train.add_argument("recipe", metavar="RECIPE.yaml", type=Path)
    train.epilog = "Any key of the recipe can be given as --key value, for instance --batch_sampler random."

    evaluate = add("evaluate", "evaluate retrieval with mteb, keeping nDCG@10 of every query")
    evaluate.add_argument("model", metavar="MODEL", help="path or Hub id, `static:` before it to distil it first")
    evaluate.add_argument(
        "--tasks", nargs="+", required=True, metavar="NAME_OR_DIR", help="mteb task or benchmark, or BEIR folder"
    )
    evaluate.add_argument("--output", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--batch_size", type=int, default=32, metavar="N", help="texts that the model sees at once")
    evaluate.add_argument("--qrels", default="test", metavar="NAME", help="judgements of folders: test, dev, train")
    evaluate.add_argument(
        "--missing",
        choices=("error", "drop"),
        default="error",
        help="judgements of texts that are not there: an error, or dropped and counted",
    )
    _add_trust(evaluate)

    compare = add("compare", "train and evaluate with several batch strategies and seeds, and say which is better")
    compare.add_argument("recipe", metavar="RECIPE.yaml", type=Path, nargs="?", help="its `variants` are compared")
    compare.add_argument("--seeds", type=int, metavar="N", help="training runs of each variant (default 3)")
    compare.add_argument("--output", type=Path, metavar="DIR", help="folder for results; a rerun goes on there")
    compare.add_argument("--redraw", type=Path, metavar="DIR", help="only draw table and figures of DIR again")
    compare.epilog = "Any key of the recipe can be given as --key value, for all variants; a value of their own wins."


def _add_publishing(add: _Add) -> None:
    build = add("build", "fill a folder with a model or labelled data, its card and results, ready to publish")
    build.add_argument("folder", metavar="MODEL", type=Path, help="saved model, output of `train` or of `attach`")
    build.add_argument("--output", type=Path, required=True, metavar="DIR")
    publish = add("publish", "push a model, labelled data, or what `build` made of it to the Hub, in one commit")
    publish.add_argument("folder", metavar="MODEL", type=Path, help="as for `build`, or its output")
    publish.add_argument("repo_id", metavar="REPO_ID", help="user/name")
    publish.add_argument("--private", action="store_true", help="refuse to publish where everyone can read it")
    where = publish.add_mutually_exclusive_group()
    where.add_argument("--create-pr", action="store_true", help="open a pull request, which goes to `main`")
    where.add_argument("--revision", metavar="R", help="branch to push to; made if it is not there")
    publish.add_argument("--dry-run", action="store_true", help="only say what would be pushed")
    for command in (build, publish):
        command.add_argument("--scores", type=Path, metavar="DIR", help="output of `evaluate`, if not of the training")
        command.add_argument("--comparison", type=Path, metavar="DIR", help="output of `compare`")
        command.add_argument("--license", metavar="ID", help="licence, as the Hub names it")
        command.add_argument("--language", nargs="+", default=(), metavar="CODE")
        command.add_argument("--datasets", nargs="+", default=(), metavar="ID", help="Hub ids of the training data")
        command.add_argument("--base_model", metavar="ID", help="Hub id of the model that training started from")
        command.add_argument("--include-samples", action="store_true", help="leave training rows in the card")
