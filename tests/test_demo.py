from __future__ import annotations

from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from st_cluster_batches.data.docstrings import Docstring, split_docstrings
from st_cluster_batches.demo import STRATEGIES, fit_encoder, run_demo, train_tokenizer


@pytest.fixture
def docstrings() -> list[Docstring]:
    """Six packages of 250 docstrings, of 40 modules each."""
    return [
        Docstring(f"p{package}", f"p{package}/m{at % 40}", f"Summary {at} of p{package}", f"Rest {at} of p{package}")
        for package in range(6)
        for at in range(250)
    ]


def test_split_keeps_held_out_modules_and_packages_out_of_training(docstrings: list[Docstring]) -> None:
    pairs, collections = split_docstrings(docstrings, None)
    trained = set(pairs["query"])
    for collection in collections.values():
        assert collection.queries and not trained & set(collection.queries.values())
    assert not set(pairs["source"]) & {text.split()[-1] for text in collections["unseen_packages"].queries.values()}
    held_out_modules = {one.module for one in docstrings if one.is_held_out}
    assert len(trained) == sum(
        one.package in set(pairs["source"]) and one.module not in held_out_modules for one in docstrings
    )


def test_split_says_what_it_found_when_there_is_too_little(docstrings: list[Docstring]) -> None:
    with pytest.raises(RuntimeError, match=r"Only 2 installed packages .*'p0', 'p1'"):
        split_docstrings(docstrings[:500], None)


def test_fitted_encoder_is_the_same_every_time_and_knows_words_that_meet() -> None:
    texts = ["soup oven bread", "oven bread butter", "boat mast rope", "mast rope sail"] * 40
    vectors = []
    for _ in range(2):
        encoder = fit_encoder(train_tokenizer(texts), texts, dimensions=2)
        vectors.append(encoder.encode(["soup", "butter", "boat"], normalize_embeddings=True))
    assert (vectors[0] == vectors[1]).all()
    similarity = vectors[0] @ vectors[0].T
    assert similarity[0, 1] > similarity[0, 2]


@pytest.mark.slow
def test_demo_compares_all_strategies_and_leaves_a_model_that_plain_sentence_transformers_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "st_cluster_batches.demo")
    result = run_demo(tmp_path, n_seeds=1, max_pairs=2000)
    messages = [record.getMessage() for record in caplog.records if record.name.endswith("demo")]
    assert len(messages) == len(set(messages)) and "then 3 training runs" in messages[0]
    shown = capsys.readouterr()
    assert "Training and evaluating, cluster batches" in shown.err
    assert not [noise for noise in ("widget", "Prompts in use", "train_runtime") if noise in shown.err + shown.out]
    assert tuple(result["results"]) == STRATEGIES
    for one in result["results"].values():
        assert all(0 < score < 1 for task in one["tasks"].values() for score in task["by_seed"])
    again = run_demo(tmp_path / "again", n_seeds=1, max_pairs=2000)
    for name, one in again["results"].items():
        assert one["tasks"] == result["results"][name]["tasks"]
    assert SentenceTransformer(result["model"]).encode(["Return the mean of an array."]).shape == (1, 256)
