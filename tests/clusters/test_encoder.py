from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import make_static_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Router, StaticEmbedding
from tokenizers.normalizers import Lowercase

from st_cluster_batches.clusters.encoder import Encoder, choose_batch_size, load_encoder
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.evaluation.retrieval import load_evaluated


def test_a_fingerprint_is_of_what_decides_the_embeddings(tiny_bert: Path) -> None:
    def load() -> SentenceTransformer:
        return SentenceTransformer(str(tiny_bert), device="cpu")

    reference = fingerprint_model(load())
    assert reference == fingerprint_model(load())
    changed = [load() for _ in range(5)]
    changed[0].max_seq_length = 7
    changed[1].prompts = {"query": "find: "}
    changed[2].truncate_dim = 8
    changed[3].similarity_fn_name = "dot"
    next(changed[4].parameters()).data[0, 0] += 1e-3
    assert len({reference, *map(fingerprint_model, changed)}) == 6


def test_an_encoder_sees_more_texts_at_once_where_a_launch_costs_more_than_a_row(tiny_bert: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    assert [choose_batch_size(one) for one in (model, make_static_model())] == [32, 2048]
    assert choose_batch_size(model.to("meta")) == 128  # no CPU, as a GPU is none


def test_the_same_weights_with_another_tokenizer_or_pooling_are_another_model(tiny_bert: Path, tmp_path: Path) -> None:
    reference = SentenceTransformer(str(tiny_bert), device="cpu")
    reference.encode(["soup salt", "mast"])  # which sets padding and truncation
    assert fingerprint_model(reference) == fingerprint_model(SentenceTransformer(str(tiny_bert), device="cpu"))
    other = shutil.copytree(tiny_bert, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["soup"], vocabulary["salt"] = vocabulary["salt"], vocabulary["soup"]
    (other / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    found = {fingerprint_model(SentenceTransformer(str(path), device="cpu")) for path in (tiny_bert, other)}
    cased = SentenceTransformer(str(tiny_bert), device="cpu")
    cased.tokenizer.backend_tokenizer.normalizer = None
    from_the_left = SentenceTransformer(str(tiny_bert), device="cpu")
    from_the_left.tokenizer.truncation_side = "left"
    pooled = SentenceTransformer(str(tiny_bert), device="cpu")
    pooled[1] = Pooling(16, pooling_mode="cls")
    half = SentenceTransformer(str(tiny_bert), device="cpu").half()
    found |= {fingerprint_model(one) for one in (cased, from_the_left, pooled, half)}
    assert len(found) == 6


def test_adapters_of_the_same_weights_are_told_apart(tiny_bert: Path) -> None:
    peft = pytest.importorskip("peft")

    def load(*names: str, **options: Any) -> SentenceTransformer:
        torch.manual_seed(0)
        model = SentenceTransformer(str(tiny_bert), device="cpu")
        config = peft.LoraConfig(target_modules=["query"], init_lora_weights=False, **{"r": 2, **options})
        model[0].model = peft.get_peft_model(model[0].model, config)
        for name in names:
            model[0].model.add_adapter(name, config)
        return model.eval()

    def embed(model: SentenceTransformer) -> Any:
        return model.encode(["soup salt"]).round(6).tolist()

    lora = load(lora_alpha=4)
    assert fingerprint_model(lora) == fingerprint_model(load(lora_alpha=4))
    scaled, ranked, off = load(lora_alpha=64), load(lora_alpha=4, use_rslora=True), load(lora_alpha=4)
    off[0].model.base_model.disable_adapter_layers()
    two, switched = load("other", lora_alpha=4), load("other", lora_alpha=4)
    switched[0].model.set_adapter("other")
    models = [lora, scaled, ranked, off, two, switched]
    assert [embed(one) for one in models].count(embed(lora)) == 2, "but for two, where the first adapter is on too"
    assert len(set(map(fingerprint_model, models))) == len(models)


def test_the_same_modules_in_another_order_or_on_other_routes_are_another_model() -> None:
    def make(*modules: torch.nn.Module) -> str:
        return fingerprint_model(SentenceTransformer(modules=[make_static_model()[0], *modules], device="cpu"))

    def route(query: int, document: int, default: str) -> str:
        paths = {name: [make_static_model(seed=seed)[0]] for name, seed in (("query", query), ("document", document))}
        router = Router(paths, default_route=default)
        return fingerprint_model(SentenceTransformer(modules=[router], device="cpu"))

    torch.manual_seed(0)
    dense = Dense(16, 16)
    assert make(dense, Normalize()) == make(dense, Normalize()) != make(Normalize(), dense)
    assert route(1, 2, "document") == route(1, 2, "document")
    assert len({route(1, 2, "document"), route(2, 1, "document"), route(1, 2, "query")}) == 3


def test_a_static_model_is_told_by_its_tokenizer_too() -> None:
    one, other = make_static_model(), make_static_model()
    other[0].tokenizer.normalizer = Lowercase()
    assert fingerprint_model(one) != fingerprint_model(other)


def test_weights_that_numpy_does_not_know_have_a_fingerprint() -> None:
    half = make_static_model().to(torch.bfloat16)
    assert fingerprint_model(half) != fingerprint_model(make_static_model())


def test_without_model2vec_the_extra_is_named(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str, **__: object) -> None:
        raise ImportError("no model2vec")

    target = "sentence_transformers.sentence_transformer.modules.StaticEmbedding.from_distillation"
    monkeypatch.setattr(target, refuse)
    with pytest.raises(ImportError, match=r"pip install 'st-cluster-batches\[static\]'"):
        load_encoder(f"static:{tiny_bert}", tmp_path)


def test_a_teacher_with_code_of_its_own_is_distilled_where_that_is_allowed(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def distil(_: str, **options: object) -> StaticEmbedding:
        given.append(options)
        return make_static_model()[0]

    monkeypatch.setattr(StaticEmbedding, "from_distillation", distil)
    for allowed in (False, True):
        load_encoder(f"static:{tiny_bert}", tmp_path / str(allowed), allowed)
    assert given == [{"trust_remote_code": False}, {"trust_remote_code": True}]


def test_a_model_of_transformers_alone_is_told_of(
    tiny_bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Encoder(str(tiny_bert), tmp_path).model and load_evaluated(str(tiny_bert))
    assert [f"{tiny_bert} is no model of sentence-transformers" in one for one in caplog.messages] == [True, True]
    caplog.clear()
    SentenceTransformer(str(tiny_bert)).save(str(tmp_path / "saved"))
    assert Encoder(str(tmp_path / "saved"), tmp_path).model and load_evaluated(str(tmp_path / "saved"))
    assert not caplog.messages
