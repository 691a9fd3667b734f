"""Models that come with code of their own run where that is allowed, and are refused with the way to allow it."""

from __future__ import annotations

import json
from pathlib import Path

import joblib
import pytest
from examples import make_pairs, make_tiny_bert

from st_cluster_batches import attach_clusters, fit_clusters
from st_cluster_batches.__main__ import main

CODE = """from transformers import BertConfig, BertModel


class OwnConfig(BertConfig):
    model_type = "own"


class OwnModel(BertModel):
    config_class = OwnConfig
"""


@pytest.fixture
def own_code(tmp_path: Path) -> str:
    """A BERT that transformers does not know, with the module that defines it."""
    path = make_tiny_bert(tmp_path / "own-code")
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "own.py").write_text(CODE)
    return str(path)


def test_code_of_an_encoder_runs_in_python_where_it_is_allowed(own_code: str, tmp_path: Path) -> None:
    for call in (attach_clusters, fit_clusters):
        options = {"n_clusters": 2, "cache_dir": tmp_path / call.__name__}
        with pytest.raises(ValueError, match="trust_remote_code"):
            call(make_pairs(40), own_code, **options)
        call(make_pairs(40), own_code, trust_remote_code=True, **options)


def list_words(workspace: Path, model: str, command: str) -> list[str]:
    pairs, cache = str(workspace / "pairs.parquet"), ["--cache_dir", str(workspace / "cache")]
    recipe = [str(workspace / "recipe.yaml"), "--model_name_or_path", model]
    trials = ["--proxy", "model", "--steps", "1", "--learning_rate", "1e-3", "--seeds", "2", "--batch_size", "64"]
    return {
        "attach": [pairs, str(workspace / "out"), "--encoder", model, "--n_clusters", "3", *cache],
        "inspect": [str(workspace / "out"), "--encoder", model, "--batch_size", "8", *cache],
        "tune": [pairs, "--encoder", model, "--output", str(workspace / "tuned"), *trials, *cache],
        "train": [*recipe, "--max_steps", "2", "--save_strategy", "no"],
        "compare": [*recipe, "--seeds", "1", "--output", str(workspace / "compared"), "--max_steps", "2"],
        "evaluate": [model, "--tasks", str(workspace / "held_out"), "--output", str(workspace / "scores")],
    }[command]


@pytest.mark.parametrize(
    "command",
    [
        "attach",
        "inspect",
        "train",
        "evaluate",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("tune", "compare")),
    ],
)
def test_code_of_a_model_runs_where_it_is_allowed(
    workspace: Path, own_code: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "inspect":
        assert main(["attach", *list_words(workspace, own_code, "attach"), "--trust_remote_code"]) == 0
    if command == "tune":
        make_pairs(900).to_parquet(str(workspace / "pairs.parquet"))
        joblib.Parallel(2)(joblib.delayed(len)("text") for _ in range(2))  # leaves workers that do not know the code
    words = [command, *list_words(workspace, own_code, command)]
    allowed = ["--trust_remote_code", *(["true"] if command in ("train", "compare") else [])]
    assert main(words) == 2
    assert "here: --trust_remote_code" in capsys.readouterr().err
    assert main([*words, *allowed]) == 0
