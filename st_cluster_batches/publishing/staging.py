"""Fill a folder with what may be published, and nothing else, without a network."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from st_cluster_batches.batches.card_block import PLAN_FILE
from st_cluster_batches.clusters.artefact import CENTROIDS_FILE, ENCODER_FOLDER, MANIFEST_FILE, read_manifest
from st_cluster_batches.clusters.choice import CHOICE_FILE
from st_cluster_batches.data.naming import name_file
from st_cluster_batches.evaluation.figures import SIZES_FIGURE, can_draw, draw_cluster_sizes, draw_figures
from st_cluster_batches.evaluation.report import RESULTS_FILE, TABLE_FILE, describe_results
from st_cluster_batches.evaluation.scores import SUMMARY_FILE
from st_cluster_batches.publishing.built_files import BUILT_FILES, list_built_files, list_files, refuse_other_files
from st_cluster_batches.publishing.card import MARK, make_card
from st_cluster_batches.publishing.contents import RESULTS, CardContents, read_contents
from st_cluster_batches.publishing.front_matter import Description
from st_cluster_batches.publishing.model_files import CARD, find_model, list_model_files
from st_cluster_batches.storage.cache import recover_folder, replace_folder
from st_cluster_batches.training.folder import GUIDED_FILE, RECIPE_FILE

logger = logging.getLogger(__name__)

FIGURES = "figures"
OFFICIAL_RESULTS = ".eval_results"

_BINARY_SUFFIXES = {
    ".bin", ".data", ".npy", ".npz", ".onnx", ".onnx_data", ".parquet", ".png", ".pt", ".safetensors",
}  # fmt: skip
_SECRET = re.compile(
    r"hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{40,}"
    r"|xox[abprs]-[\w-]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_PATH_BEGINS = r"(?<![\w/.:~#-])"
_LOCAL_PATH = (
    rf"{_PATH_BEGINS}/(?:home|Users|root|tmp|var|mnt|opt|srv|data|work|workspace|scratch|content|kaggle|private|storage"
    r"|Volumes|nfs\d*|gpfs\d*|lustre|afs|efs|fsx|dbfs)/[\w.-]+"
    r"|\bfile://[\w.-]*/[\w./-]+"
    r"|\b[A-Za-z]:\\{1,2}Users\\{1,2}\w+"
)
# Vocabularies may hold paths that are tokens of the text they were trained on.
_VOCABULARIES = re.compile(r"(tokenizer\.json|vocab.*|merges\.txt|.*\.tiktoken)")


def build_model(
    model: Path,
    output: Path,
    about: Description | None = None,
    *,
    scores: Path | None = None,
    comparison: Path | None = None,
) -> Path:
    """Fill a folder with a model, its card, its clustering, its results and its figures, ready to be published.

    Args:
        model: Folder of any saved sentence-transformers model, or the output folder of `train`, whose `model/` it is.
        output: Folder to fill. What an earlier build left there is replaced, but for the text that people wrote into
            its README around the block; any other folder with content is refused.
        about: What only its author knows.
        scores: Output folder of `evaluate`; that of the training by default.
        comparison: Output folder of `compare`, for figures and the baseline.

    Returns:
        The folder. The same inputs give the same bytes.

    Raises:
        FileNotFoundError: If there is no model, or a named folder holds no results.
        ValueError: If a file holds a token or a local path, or the scores are those of another model.
    """
    model = find_model(model)
    about = about or Description()
    contents = read_contents(model, scores, comparison)

    def fill(stage: Path, earlier: str | None) -> None:
        for path in list_model_files(model):
            _copy(path, stage / path.relative_to(model))
        figures = _write_contents(stage, contents)
        text = (model / CARD).read_text(encoding="utf-8") if (model / CARD).is_file() else ""
        (stage / CARD).write_text(make_card(text, contents, about, figures, earlier), encoding="utf-8")

    return fill_stage(output, fill)


def fill_stage(output: Path, fill: Callable[[Path, str | None], None]) -> Path:
    """Fill a folder that appears whole or not at all, and check it for tokens and local paths.

    Args:
        output: The folder.
        fill: Writes into the folder it is given; second comes the README of an earlier build, if there is one.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder holds anything that no build left there as it is, or a file holds a token or a local
            path.
    """
    recover_folder(output)  # the card of an earlier build, which people may have edited, may lie in what a kill left
    card = output / CARD
    earlier = card.read_text(encoding="utf-8") if card.is_file() else None
    refuse_other_files(output, CARD)
    with replace_folder(output, is_own=lambda _: True) as stage:  # all of the old one has been found to be a build's
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        fill(stage, earlier)
        refuse_private_content(stage)
        list_built_files(stage)
    return output


def is_staged(folder: Path) -> bool:
    """Return whether a folder is one that `build` filled; a model that was loaded of one keeps its card alone."""
    card = folder / CARD
    return card.is_file() and (folder / BUILT_FILES).is_file() and bool(MARK.search(card.read_text(encoding="utf-8")))


def refuse_private_content(folder: Path) -> None:
    """Raise a ValueError that names the first file with a token or a path of this machine in it."""
    local_path = _match_local_paths([Path.home(), Path.cwd(), folder.absolute().parent])
    for path in list_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix in _BINARY_SUFFIXES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # no text
        found = _SECRET.search(text)
        if found is not None:
            raise ValueError(f"{name} holds what looks like a token ({found[0][:6]}...); take it out and revoke it")
        if not _VOCABULARIES.fullmatch(path.name) and (found := local_path.search(text)) is not None:
            line = text.count("\n", 0, found.start()) + 1
            raise ValueError(
                f"{name}, line {line}, holds a path of this machine: {found[0]}. Correct it where it comes from, the "
                "model's folder or the data, and build again"
            )


def _match_local_paths(places: Sequence[Path]) -> re.Pattern[str]:
    """Return a pattern of paths as machines commonly have them, and of what lies in places of this one."""
    own = [f"{_PATH_BEGINS}{re.escape(str(place))}" for place in places if place != Path(place.anchor)]
    return re.compile("|".join([_LOCAL_PATH, *(rf"{one}[\\/][\w.-]+" for one in own)]))


def stage_clustering(source: Path, stage: Path) -> dict[str, Any]:
    """Copy a clustering to where `Clustering.load` finds it in a repository, and return its manifest.

    Args:
        source: Folder that `Clustering.save` filled.
        stage: Folder to be published.
    """
    manifest = read_manifest(source)
    _copy(source / CENTROIDS_FILE, stage / CENTROIDS_FILE)
    if (source / ENCODER_FOLDER).is_dir():
        for path in list_model_files(source / ENCODER_FOLDER):
            _copy(path, stage / ENCODER_FOLDER / path.relative_to(source / ENCODER_FOLDER))
    write_json(stage / MANIFEST_FILE, manifest)
    return manifest


def draw_sizes(manifest: dict[str, Any], stage: Path) -> list[str]:
    """Draw the histogram of cluster sizes into a staged folder; return its path there, or nothing if it cannot be."""
    if not can_draw("A figure of cluster sizes in the card"):
        return []
    sizes = {name: one["sizes"] for name, one in manifest["statistics"].items()}
    return [f"{FIGURES}/{draw_cluster_sizes(sizes, stage / FIGURES / SIZES_FIGURE).name}"]


def draw_comparison(comparison: dict[str, Any], folder: Path) -> list[str]:
    """Draw the figures of a comparison into the figures of a staged folder; return their paths there."""
    if not can_draw("A figure of the comparison in the card"):
        return []
    return [f"{FIGURES}/{path.name}" for path in draw_figures(comparison, folder, ["png"])]


def write_json(path: Path, content: Any) -> None:
    """Write JSON values; keys stay in their order, so that the same values give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_contents(stage: Path, contents: CardContents) -> list[str]:
    """Write the raw results and the figures; return the paths of the figures."""
    figures: list[str] = []
    results = stage / RESULTS
    results.mkdir()
    if recipe := contents.published_recipe:
        (results / RECIPE_FILE).write_text(
            yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
    if contents.choice is not None:
        write_json(results / CHOICE_FILE, contents.choice)
    if contents.plans:
        write_json(results / PLAN_FILE, contents.plans)
    if contents.guided:
        write_json(results / GUIDED_FILE, contents.guided)
    if contents.clustering_folder is not None:
        figures += draw_sizes(stage_clustering(contents.clustering_folder, stage), stage)
    if contents.scores is not None:
        write_json(results / SUMMARY_FILE, contents.scores.summary)
        for task, per_query in contents.scores.per_query.items():
            write_json(results / "per_query" / f"{name_file(task)}.json", per_query)
            write_json(results / "mteb" / f"{name_file(task)}.json", contents.scores.raw[task])
        _write_official(stage, contents)
    if contents.comparison is not None:
        write_json(results / "comparison" / RESULTS_FILE, contents.comparison)
        (results / "comparison" / TABLE_FILE).write_text(
            describe_results(contents.comparison) + "\n", encoding="utf-8"
        )
        figures += draw_comparison(contents.comparison, stage / FIGURES)
    if not any(results.iterdir()):
        results.rmdir()
    return figures


def _write_official(stage: Path, contents: CardContents) -> None:
    """Write the results that the Hub's leaderboards read: of complete official tasks alone."""
    assert contents.scores is not None
    if find_spec("mteb") is None:
        logger.warning(
            "No %s: to know official tasks takes mteb, pip install 'st-cluster-batches[eval]'", OFFICIAL_RESULTS
        )
        return
    from huggingface_hub import eval_result_entries_to_yaml

    from st_cluster_batches.publishing.official_results import describe_official_result

    for task, raw in contents.scores.raw.items():
        if entry := describe_official_result(task, raw, contents.scores.summary[task]):
            path = stage / OFFICIAL_RESULTS / f"{task}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True),
                encoding="utf-8",
            )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
