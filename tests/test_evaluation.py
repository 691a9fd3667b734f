from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from conftest import make_pairs, make_static_model
from st_cluster_batches.collection import Collection
from st_cluster_batches.evaluation import evaluate, load_tasks


@pytest.fixture
def collection() -> Collection:
    pairs = make_pairs(40, seed=3)
    corpus = {f"d{at}": (f"title{at}", text) for at, text in enumerate(pairs["passage"])}
    qrels = {f"q{at}": {f"d{at}": 3, f"d{(at + 1) % 40}": 1, f"d{(at + 2) % 40}": 0} for at in range(20)}
    return Collection({f"q{at}": pairs["query"][at] for at in range(20)}, corpus, qrels)


@pytest.fixture
def folder(tmp_path: Path, collection: Collection) -> Path:
    collection.write(tmp_path / "toy")
    return tmp_path / "toy"


def ndcg_at_10(model: SentenceTransformer, collection: Collection) -> dict[str, float]:
    """Compute the measure by its definition: gains over log2 of ranks, against the ideal order."""
    documents = model.encode_document([f"{title} {text}" for title, text in collection.corpus.values()])
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    result = {}
    for query, text in collection.queries.items():
        ranked = [list(collection.corpus)[at] for at in np.argsort(-(documents @ model.encode_query(text)))[:10]]
        gains = [collection.qrels[query].get(document, 0) for document in ranked]
        ideal = sorted(collection.qrels[query].values(), reverse=True)
        discounted = [sum(gain / math.log2(at + 2) for at, gain in enumerate(one)) for one in (gains, ideal)]
        result[query] = discounted[0] / discounted[1]
    return result


def test_every_query_has_its_ndcg_by_definition(folder: Path, collection: Collection, tmp_path: Path) -> None:
    model = make_static_model()
    scores = evaluate(model, [folder], tmp_path / "scores", show_progress_bar=False)["toy"]
    assert scores.per_query == pytest.approx(ndcg_at_10(model, collection), abs=1e-6)
    assert json.loads((tmp_path / "scores" / "per_query" / "toy.json").read_text()) == scores.per_query
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary == {"toy": {"ndcg_at_10": scores.ndcg_at_10, "queries": 20}}
    raw = json.loads((tmp_path / "scores" / "mteb" / "toy.json").read_text())
    assert raw["scores"]["test"][0]["ndcg_at_10"] == pytest.approx(scores.ndcg_at_10, abs=1e-4)


def test_an_edited_model_never_gets_the_old_score(folder: Path, tmp_path: Path) -> None:
    model = make_static_model()
    first = evaluate(model, [folder], tmp_path / "scores", show_progress_bar=False)["toy"]
    with torch.no_grad():
        model[0].embedding.weight.copy_(torch.randn(model[0].embedding.weight.shape, generator=torch.manual_seed(5)))
    second = evaluate(model, [folder], tmp_path / "scores", show_progress_bar=False)["toy"]
    assert first.per_query != second.per_query


def test_prompts_reach_the_tokenizer(folder: Path) -> None:
    model = make_static_model()
    model.prompts = {"query": "pawn ", "document": "soup "}
    seen: list[str] = []
    tokenize = model.preprocess

    def record(texts: list[str], prompt: str | None = None, **options: object) -> object:
        seen.extend((prompt or "") + str(text) for text in texts)
        return tokenize(texts, prompt=prompt, **options)

    model.preprocess = record
    evaluate(model, [folder], show_progress_bar=False)
    assert sum(text.startswith("pawn ") for text in seen) >= 20
    assert sum(text.startswith("soup title") for text in seen) >= 40


def test_tasks_are_checked_before_anything_is_encoded(folder: Path, tmp_path: Path, collection: Collection) -> None:
    model = make_static_model()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("encoded")

    model.encode = refuse
    broken = tmp_path / "broken"
    Collection(collection.queries, {"d0": ("", "x")}, collection.qrels).write(broken)
    with pytest.raises(ValueError, match="judged documents are not in the corpus"):
        evaluate(model, [folder, broken])
    with pytest.raises(ValueError, match="NoSuchTask is neither a folder here nor"):
        evaluate(model, [folder, "NoSuchTask"])
    with pytest.raises(ValueError, match="type STS"):
        load_tasks(["STSBenchmark"])
    collection.write(tmp_path / "other" / "toy")
    with pytest.raises(ValueError, match="Two tasks are called 'toy'"):
        load_tasks([folder, tmp_path / "other" / "toy"])


def test_an_official_task_without_its_data_is_one_clear_error() -> None:
    with pytest.raises(ConnectionError, match="data of SciFact is not here and the Hub does not give it"):
        evaluate(make_static_model(), ["SciFact"], show_progress_bar=False)
