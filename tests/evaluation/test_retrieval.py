from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples import make_pairs, make_static_model
from loopback_hub import LoopbackHub, open_black_hole
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from st_cluster_batches.__main__ import main
from st_cluster_batches.data.collection import Collection
from st_cluster_batches.evaluation.retrieval import evaluate, load_evaluated
from st_cluster_batches.evaluation.tasks import load_tasks
from st_cluster_batches.storage.numbers import DivergedError


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


@pytest.mark.parametrize("kind", [CrossEncoder, MultiVectorEncoder])
def test_a_model_that_gives_no_vector_of_a_text_is_not_evaluated_as_another(
    kind: Any, tiny_bert: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind(str(tiny_bert), device="cpu").save(str(tmp_path / "other"))
    assert main(["evaluate", f"{tmp_path}/other", "--tasks", str(folder), "--output", f"{tmp_path}/scores"]) == 2
    assert f"other is a {kind.__name__}, and what is evaluated here ranks by one vector" in capsys.readouterr().err


def test_a_cross_encoder_of_an_earlier_version_is_known_too(tiny_bert: Path) -> None:
    BertForSequenceClassification(BertConfig.from_pretrained(tiny_bert, num_labels=1)).save_pretrained(tiny_bert)
    with pytest.raises(TypeError, match="is a CrossEncoder"):
        load_evaluated(str(tiny_bert))


def test_a_sparse_model_gets_the_score_of_a_sparse_model(tiny_bert: Path, folder: Path, tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig.from_pretrained(tiny_bert)).save_pretrained(tiny_bert)
    model = SparseEncoder(str(tiny_bert), device="cpu")
    model.save(str(tmp_path / "sparse"))
    expected = evaluate(model, [folder], show_progress_bar=False)["toy"]
    output = tmp_path / "scores"
    assert main(["evaluate", f"{tmp_path}/sparse", "--tasks", str(folder), "--output", str(output)]) == 0
    assert json.loads((output / "per_query" / "toy.json").read_text()) == pytest.approx(expected.per_query)


def test_a_model_of_nan_gets_no_score(folder: Path) -> None:
    model = make_static_model()
    with torch.no_grad():
        model[0].embedding.weight[3, 0] = torch.nan
    with pytest.raises(DivergedError, match=r"1 weights with NaN or infinite values, such as 0\.embedding\.weight"):
        evaluate(model, [folder], show_progress_bar=False)
    model = make_static_model()
    with torch.no_grad():
        model[0].embedding.weight.fill_(torch.finfo(torch.float32).max)  # each is finite, and no mean of several is
    with pytest.raises(DivergedError, match=r"vectors that the model made of a batch of texts .* are NaN or infinite"):
        evaluate(model, [folder], show_progress_bar=False)


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


def test_a_rerun_evaluates_only_what_is_missing(
    folder: Path, tmp_path: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, output = make_static_model(), tmp_path / "scores"
    collection.write(tmp_path / "second")
    encoded: list[int] = []
    encode = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda *a, **o: encoded.append(1) or encode(*a, **o))
    first = evaluate(model, [folder], output, show_progress_bar=False)
    n_calls = len(encoded)
    both = evaluate(model, [folder, tmp_path / "second"], output, show_progress_bar=False)
    assert both["toy"] == first["toy"] and len(encoded) == 2 * n_calls > 0
    assert set(json.loads((output / "summary.json").read_text())) == {"toy", "second"}
    encoded.clear()
    collection.corpus["d0"] = ("", "another text")
    collection.write(folder)
    evaluate(model, [folder], output, show_progress_bar=False)
    assert encoded, "a changed collection got its old score"
    assert [path.stem for path in (output / "per_query").iterdir()] == ["toy"]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "prompts", {"query": "pawn ", "document": ""}),
        lambda model: setattr(model, "truncate_dim", 4),
        lambda model: setattr(model, "similarity_fn_name", "dot"),
    ],
)
def test_whatever_changes_embeddings_or_ranks_is_evaluated_anew(
    folder: Path, tmp_path: Path, change: Callable[[SentenceTransformer], None]
) -> None:
    model = make_static_model()
    for _ in range(2):
        evaluate(model, [folder], tmp_path / "scores", show_progress_bar=False)
        change(model)
    evaluate(model, [folder], tmp_path / "scores", show_progress_bar=False)
    assert len(list((tmp_path / "scores" / "by_model").iterdir())) == 2


def run_evaluate(
    environment: dict[str, str], *words: object, launch: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launch, "-m", "st_cluster_batches", "evaluate", *map(str, words)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180)


@pytest.mark.slow
def test_official_tasks_run_unmodified(saved_model: Path, tmp_path: Path, collection: Collection) -> None:
    collection.write(tmp_path / "scifact")
    configs = [("default", "test", "qrels"), ("corpus", "corpus", "corpus"), ("queries", "queries", "queries")]
    card = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {file}.jsonl\n"
        for name, split, file in configs
    )
    files = {"README.md": f"---\nconfigs:\n{card}---\n".encode()}
    files |= {path.name: path.read_bytes() for path in (tmp_path / "scifact").iterdir()}
    # The revision that mteb pins.
    data = load_tasks(["SciFact"])["SciFact"].metadata.dataset
    output = tmp_path / "scores"
    with LoopbackHub() as hub:
        hub.add("datasets", data["path"], files, revision=data["revision"])
        environment = hub.environment(tmp_path / "home")
        done = run_evaluate(environment, saved_model, "--tasks", "SciFact", tmp_path / "scifact", "--output", output)
        assert done.returncode == 0, done.stderr
        assert f"GET /datasets/{data['path']}/resolve/{data['revision']}/corpus.jsonl" in hub.requests
        hub.requests.clear()
        # A finished task asks for nothing.
        done = run_evaluate(environment, saved_model, "--tasks", "SciFact", "--output", output)
        assert done.returncode == 0 and hub.requests == []
    per_query = json.loads((output / "per_query" / "SciFact.json").read_text())
    assert per_query == pytest.approx(ndcg_at_10(make_static_model(), collection), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["offline", "refused", "black hole"])
def test_the_first_unreachable_task_is_one_clear_message(saved_model: Path, tmp_path: Path, network: str) -> None:
    environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    with open_black_hole() as address:
        if network == "offline":
            environment = {"HF_HUB_OFFLINE": "1"}
        elif network == "black hole":
            environment["HF_ENDPOINT"] = address
        start = time.perf_counter()
        done = run_evaluate(environment, saved_model, "--tasks", "MTEB(eng, v2)", "--output", tmp_path / "scores")
    # Loading the libraries takes seconds; the client alone would try for 23 s or for 396 s, and for each task.
    assert time.perf_counter() - start < (40 if network == "black hole" else 30)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1 and "ArguAna" in errors[0] and "evaluate folders instead" in errors[0]


LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
def test_two_ranks_leave_the_scores_of_one(saved_model: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    done = run_evaluate({"ACCELERATE_USE_CPU": "true"}, saved_model, "--tasks", folder, "--output", output, "--json",
                        launch=LAUNCH)  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = evaluate(SentenceTransformer(str(saved_model), device="cpu"), [folder], show_progress_bar=False)["toy"]
    assert json.loads((output / "per_query" / "toy.json").read_text()) == alone.per_query
    assert json.loads(done.stdout)["toy"]["queries"] == 20  # one JSON object, not one of each rank


@pytest.mark.slow
def test_a_failure_on_the_main_process_ends_the_others(saved_model: Path, tmp_path: Path) -> None:
    environment = {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    words = (saved_model, "--tasks", "SciFact", "--output", tmp_path / "scores")
    done = run_evaluate(environment, *words, launch=LAUNCH)
    assert done.returncode != 0 and "The data of SciFact is not here" in done.stderr


def test_a_document_with_the_id_of_the_query_is_left_out_as_in_beir(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "st_cluster_batches")
    texts = {"a": "soup salt oven", "b": "boat mast rope"}
    corpus = {key: ("", text) for key, text in texts.items()}
    corpus |= {f"{key}2": ("", f"{text} pawn") for key, text in texts.items()}
    Collection(texts, corpus, {"a": {"a2": 1}, "b": {"b2": 1}}).write(tmp_path / "same")
    assert evaluate(make_static_model(), [tmp_path / "same"], show_progress_bar=False)["same"].ndcg_at_10 == 1
    assert caplog.text.count("same: 2 queries have the id of a document, which is left out of their ranking") == 1


def test_numbered_queries_and_documents_are_not_taken_for_one_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = {"0": "soup salt oven", "1": "boat mast rope"}
    corpus = {key: ("", f"{text} pawn") for key, text in texts.items()}
    Collection(texts, corpus, {"0": {"0": 1}, "1": {"1": 1}}).write(tmp_path / "numbered")
    assert evaluate(make_static_model(), [tmp_path / "numbered"], show_progress_bar=False)["numbered"].ndcg_at_10 == 1
    assert "they were numbered apart" in caplog.text


def test_a_model_is_distilled_where_its_name_says_so(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("st_cluster_batches.evaluation.retrieval.default_cache_dir", lambda: tmp_path)
    assert isinstance(load_evaluated(f"static:{tiny_bert}")[0], StaticEmbedding)


def test_scores_are_not_written_among_rows(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    make_pairs(4).to_parquet(str(tmp_path / "rows" / "pairs.parquet"))
    make_pairs(4).save_to_disk(str(tmp_path / "saved"))
    for name in ("rows", "saved", "toy"):
        with pytest.raises(ValueError, match=r"holds rows.*name a folder of their own"):
            evaluate(make_static_model(), [folder], tmp_path / name)
