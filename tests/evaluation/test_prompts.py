from __future__ import annotations

from pathlib import Path

import pytest
from examples import make_static_model
from sentence_transformers import SentenceTransformer

from st_cluster_batches.evaluation.retrieval import evaluate


@pytest.fixture
def folder(workspace: Path) -> Path:
    return workspace / "held_out"


def test_prompts_are_logged_where_there_are_any(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "st_cluster_batches")
    model = make_static_model()
    for prompts, expected in (({"query": "", "document": ""}, 0), ({"query": "pawn ", "document": ""}, 1)):
        model.prompts = prompts
        evaluate(model, [folder], show_progress_bar=False)
        assert caplog.text.count("Prompts in use: {'query': 'pawn '}") == caplog.text.count("Prompts") == expected


def record_texts(model: SentenceTransformer) -> list[str]:
    """Return a list that gets every text that the model's tokenizer does."""
    seen: list[str] = []
    tokenize = model.preprocess

    def record(texts: list[str], prompt: str | None = None, **options: object) -> object:
        seen.extend((prompt or "") + str(text) for text in texts)
        return tokenize(texts, prompt=prompt, **options)

    model.preprocess = record
    return seen


def test_prompts_reach_the_tokenizer(folder: Path) -> None:
    model = make_static_model()
    model.prompts = {"query": "pawn ", "document": "soup "}
    seen = record_texts(model)
    evaluate(model, [folder], show_progress_bar=False)
    assert sum(text.startswith("pawn ") for text in seen) >= 20
    assert sum(text.startswith("soup ") for text in seen) >= 20


@pytest.mark.parametrize(
    ("prompts", "default", "used", "warning"),
    [
        ({"passage": "A "}, None, {"A"}, None),
        ({"document": "", "query": "", "passage": "A "}, None, set(), "No query and no document gets a prompt"),
        ({"query": "A ", "document": "", "search_document": "B "}, None, {"A"}, "No document gets a prompt"),
        ({"query": "A ", "document": "B ", "STS": "C "}, None, {"A", "B"}, None),
        ({"Retrieval": "A ", "Retrieval-query": "B ", "query": "C "}, None, {"A", "B"}, None),
        ({"query": "A ", "x": "B "}, "x", {"A", "B"}, None),
    ],
)
def test_only_prompts_that_texts_get_are_said_to_be_in_use(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    prompts: dict[str, str],
    default: str | None,
    used: set[str],
    warning: str | None,
) -> None:
    caplog.set_level("INFO", "st_cluster_batches")
    model = make_static_model()
    model.prompts, model.default_prompt_name = prompts, default
    seen = record_texts(model)
    evaluate(model, [folder], show_progress_bar=False)
    assert {text.split()[0] for text in seen} & {"A", "B", "C"} == used
    told = next((one for one in caplog.messages if one.startswith("Prompts in use")), "")
    assert {letter for letter in "ABC" if f"'{letter} '" in told} == used
    warned = [one for one in caplog.messages if "gets a prompt" in one]
    assert len(warned) == (warning is not None) and all(one.startswith(str(warning)) for one in warned)
