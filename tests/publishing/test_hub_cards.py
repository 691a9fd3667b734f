"""What lies in hub_cards is what `build` gives now, as far as git keeps it: hub_cards/make.sh makes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from matplotlib.testing.compare import compare_images

from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.publishing.card import MARK, make_card
from st_cluster_batches.publishing.contents import CardContents, ModelScores
from st_cluster_batches.publishing.front_matter import Description
from st_cluster_batches.publishing.staging import draw_comparison, draw_sizes, refuse_private_content

FOLDERS = [path.parent for path in sorted(Path(__file__).parents[2].glob("hub_cards/*/README.md"))]
CARDS = [folder for folder in FOLDERS if (folder / "results").is_dir()]


def read(path: Path, otherwise: Any) -> Any:
    return yaml.safe_load(path.read_text()) if path.is_file() else otherwise


def read_contents(folder: Path) -> CardContents:
    """Read what the staged folder says of itself: all that its card was made from."""
    results = folder / "results"
    summary = read(results / "summary.json", {})
    per_query = {task: json.loads((results / "per_query" / f"{task}.json").read_text()) for task in summary}
    return CardContents(
        read(results / "recipe.yaml", {}),
        read(results / "batch_plan.json", []),
        read(folder / "clustering.json", None),
        None,
        ModelScores(summary, per_query, {}),
        read(results / "comparison" / "results.json", None),
    )


def test_the_demo_and_the_best_compared_model_have_cards() -> None:
    assert {folder.name for folder in CARDS} == {"demo", "static"}


def test_labelled_data_has_a_card_that_says_what_labelled_it(tmp_path: Path) -> None:
    (folder,) = set(FOLDERS) - set(CARDS)
    text, manifest = (folder / "README.md").read_text(), read(folder / "clustering.json", None)
    assert "\n".join(describe_clustering(manifest)) in text
    (drawn,) = draw_sizes(manifest, tmp_path)
    assert f"({drawn})" in text and compare_images(str(folder / drawn), str(tmp_path / drawn), tol=2.0) is None


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_card_is_what_build_gives(folder: Path, tmp_path: Path) -> None:
    text = (folder / "README.md").read_text()
    contents, data = read_contents(folder), ModelCard(text).data
    about = Description(language=data.language, base_model=data.base_model)
    sizes = [] if contents.clustering is None else draw_sizes(contents.clustering, tmp_path)
    drawn = [*sizes, *draw_comparison(contents.comparison, tmp_path / "figures")]
    assert make_card(text, contents, about, drawn, None) == text
    for figure in drawn:
        # Not byte by byte: other versions of matplotlib draw other pixels.
        assert compare_images(str(folder / figure), str(tmp_path / figure), tol=2.0) is None
    assert {f"figures/{path.name}" for path in (folder / "figures").iterdir()} == set(drawn)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_card_gives_nothing_away_and_can_be_published(folder: Path) -> None:
    refuse_private_content(folder)
    assert MARK.search((folder / "README.md").read_text())
