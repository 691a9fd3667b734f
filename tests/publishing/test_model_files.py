from __future__ import annotations

import json
from pathlib import Path

import pytest
from builds import build
from safetensors.numpy import load_file

from st_cluster_batches.publishing.model_files import find_model, list_model_files


def test_a_run_is_built_from_its_model_not_from_what_an_earlier_push_left_in_the_folder(
    trained: Path, workspace: Path
) -> None:
    for path in (workspace / "encoder").iterdir():  # as a trainer saves its model that pushes it
        path.rename(trained / path.name)
    places = (build(trained), trained / "model", trained)
    staged, last, stale = (load_file(place / "model.safetensors") for place in places)
    weight = "embedding.weight"
    assert (staged[weight] == last[weight]).all() and not (staged[weight] == stale[weight]).all()
    assert find_model(trained) == trained / "model"
    assert not {"_started.json", "hub_ids.json", "recipe.yaml"} & {path.name for path in list_model_files(trained)}


def test_no_file_of_a_model_is_left_out_and_no_other_is_left_out_in_silence(
    saved_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = ["bpe.codes", "state_pooling.py", "scheduler_free.py", "onnx/model.onnx_data", "2_Dense.npy", "vocab.vocab"]
    state = ["optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state_0.pth", "training_args.bin"]
    state += ["checkpoint-4/optimizer.pt", "runs/events.log", "_started.json"]
    others = ["weights.h5", "notes/today.txt"]
    for name in (*own, *state, *others):
        (saved_model / name).parent.mkdir(exist_ok=True)
        (saved_model / name).write_text("x")
    found = {path.relative_to(saved_model).as_posix() for path in list_model_files(saved_model)}
    assert set(own) < found and not found & {*state, *others}
    (said,) = caplog.messages
    assert "2 files or folders" in said and "no part of the model: notes/, weights.h5." in said


def test_the_folders_of_modules_are_of_the_model(saved_model: Path) -> None:
    modules = json.loads((saved_model / "modules.json").read_text())
    (saved_model / "modules.json").write_text(json.dumps([*modules, {"idx": 9, "path": "9_Own", "type": "x"}]))
    (saved_model / "9_Own").mkdir()
    (saved_model / "9_Own" / "own.npz").write_text("x")
    assert saved_model / "9_Own" / "own.npz" in list_model_files(saved_model)
