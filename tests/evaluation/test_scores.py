from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from examples import make_static_model

from st_cluster_batches.evaluation.retrieval import evaluate
from st_cluster_batches.evaluation.tasks import load_tasks


@pytest.fixture
def folder(workspace: Path) -> Path:
    return workspace / "held_out"


@pytest.fixture
def second(workspace: Path) -> Path:
    return Path(shutil.copytree(workspace / "held_out", workspace / "second"))


def test_an_evaluation_that_fails_leaves_no_scores_of_another_model(
    folder: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, output = [folder, second], tmp_path / "scores"
    evaluate(make_static_model(), tasks, output, show_progress_bar=False)
    loaded = load_tasks(tasks)
    monkeypatch.setattr(loaded["second"], "load_data", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate(make_static_model(seed=1), loaded, output, show_progress_bar=False)
    for kind in ("per_query", "mteb"):
        assert [path.stem for path in (output / kind).iterdir()] == ["held_out"]
    assert list(json.loads((output / "summary.json").read_text())) == ["held_out"]


def test_results_that_another_call_left_are_not_removed_in_silence(
    folder: Path, second: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for task in (folder, second):
        assert "which this call does not evaluate" not in caplog.text
        evaluate(make_static_model(), [task], tmp_path / "scores", show_progress_bar=False)
    assert "had results of held_out, which this call does not evaluate" in caplog.text
    caplog.clear()
    tasks = [folder, second]
    assert set(evaluate(make_static_model(), tasks, tmp_path / "scores", show_progress_bar=False)) == {
        "held_out",
        "second",
    }
    assert "does not evaluate" not in caplog.text


def test_a_damaged_file_of_scores_is_made_anew(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "scores"
    scores = evaluate(make_static_model(), [folder], output, show_progress_bar=False)
    for path in (output / "summary.json", *(output / "by_model").glob("*/*.json")):
        path.write_text(path.read_text()[:-20])
    assert evaluate(make_static_model(), [folder], output, show_progress_bar=False) == scores
    assert len([one for one in caplog.messages if "is damaged" in one]) == 2
    assert json.loads((output / "summary.json").read_text())
