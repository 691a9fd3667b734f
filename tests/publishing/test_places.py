"""Nothing that is published says where anything lies on the machine that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builds import build, read_files

from st_cluster_batches.__main__ import main
from st_cluster_batches.batches.card_block import BEGIN, END
from st_cluster_batches.publishing.staging import refuse_private_content
from st_cluster_batches.training.folder import find_hub_ids, publish_values
from st_cluster_batches.training.recipe import read_recipe

MARK = "xyzzy"


def test_a_run_whose_every_argument_is_a_marked_path_leaves_no_mark(
    workspace: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace / f"{MARK} with blanks"
    near = workspace / MARK  # `xyzzy/pairs.parquet` would pass for a Hub id
    for one in (folder, near):
        one.mkdir()
    (workspace / "pairs.parquet").rename(near / "pairs.parquet")
    (workspace / "held_out").rename(folder / "held_out")
    tiny_bert.rename(folder / "bert")
    (near / "guide").symlink_to(folder / "bert")
    monkeypatch.chdir(workspace)
    values = yaml.safe_load((workspace / "recipe.yaml").read_text()) | {
        "train_data": [f"{MARK}/pairs.parquet"],
        "data_dir": str(workspace),
        "eval_tasks": [str(folder / "held_out")],
        "model_name_or_path": str(folder / "bert"),
        "encoder": str(folder / "bert"),
        "loss": "gist",
        "guide_model": f"{MARK}/guide",
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "run"),
        "run_name": f"/mnt/{MARK}/run",
        "hub_model_id": f"/mnt/{MARK}/model",
        "logging_steps": 1,
    }
    (workspace / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "recipe.yaml"]) == 0
    words = ["--max_steps", "1", "--encoder", f"{MARK}/guide", f"--cache_dir={folder}/cache"]
    assert main(["compare", "recipe.yaml", "--seeds", "1", "--output", f"{MARK}/compared", *words]) == 0
    files = read_files(build(folder / "run", "--comparison", f"{MARK}/compared"))
    assert "results/recipe.yaml" in files and "results/comparison/results.json" in files
    assert not [name for name, content in files.items() if MARK in name or MARK.encode() in content]
    assert yaml.safe_load(files["results/recipe.yaml"])["train_data"] == ["pairs.parquet"]
    card = (folder / "run" / "model" / "README.md").read_text()
    assert MARK not in card[card.index(BEGIN) : card.index(END)], "in our block of the card that the trainer pushes"


@pytest.mark.parametrize(
    "place",
    [
        "/mnt/xyzzy/a.parquet",
        "xyzzy/a.parquet",
        "/Volumes/My xyzzy/a.parquet",
        "D:\\xyzzy\\a.parquet",
        "\\\\xyzzy\\share\\a.parquet",
        "file:///xyzzy/a.parquet",
        "static:xyzzy/a.parquet",
        "~/xyzzy/a.parquet/",
    ],
)
def test_of_a_place_in_any_form_the_name_alone_is_said(place: str) -> None:
    values = {"train_data": [place], "encoder": place, "deepspeed": {"config": place}, "accelerator_config": place}
    said = publish_values({**values, "lr_scheduler_kwargs": f'{{"a": "{place}"}}'.replace("\\", "\\\\")}, ["org/data"])
    assert MARK not in str(said) and said["train_data"][0].endswith("a.parquet")


def test_ids_that_were_loaded_from_the_hub_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model").mkdir()
    (tmp_path / "r.yaml").write_text(
        "train_data: [org/data, here/pairs]\ndata_dir: here/..\nmodel_name_or_path: here/model\n"
        "encoder: static:org/encoder\noutput_dir: out\n"
    )
    recipe = read_recipe(tmp_path / "r.yaml")
    assert find_hub_ids(recipe) == ["here/pairs", "org/data", "org/encoder"]
    (tmp_path / "here" / "pairs").mkdir()
    ids = find_hub_ids(recipe)
    assert publish_values(recipe.given, ids) == {
        "train_data": ["org/data", "pairs"],
        "model_name_or_path": "model",
        "encoder": "static:org/encoder",
    }


@pytest.mark.parametrize(
    "place", ["file:///home/xyzzy/a", "file://host/xyzzy/a", "/nfs/xyzzy/a", "{home}/a", "{cwd}/a"]
)
def test_a_file_with_a_place_of_this_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    stage, text = tmp_path / "stage", "see https://example.org/home/a and `/api/models/b`, of ~/a"
    stage.mkdir()
    monkeypatch.setattr(Path, "home", lambda: Path("/xyzzy/own"))
    monkeypatch.setattr(Path, "cwd", lambda: Path("/xyzzy-team"))
    (stage / "notes.txt").write_text(text)
    refuse_private_content(stage)
    (stage / "notes.txt").write_text(f"{text}\nand {place.format(home='/xyzzy/own', cwd='/xyzzy-team')}\n")
    with pytest.raises(ValueError, match=r"notes.txt, line 2, holds a path of this machine: \S*xyzzy"):
        refuse_private_content(stage)
