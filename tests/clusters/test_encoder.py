from __future__ import annotations

from pathlib import Path

import pytest
import torch
from examples import make_static_model
from sentence_transformers import SentenceTransformer

from st_cluster_batches.clusters.encoder import fingerprint_model, load_encoder


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


def test_weights_that_numpy_does_not_know_have_a_fingerprint() -> None:
    half = make_static_model().to(torch.bfloat16)
    assert fingerprint_model(half) != fingerprint_model(make_static_model())


def test_without_model2vec_the_extra_is_named(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise ImportError("no model2vec")

    target = "sentence_transformers.sentence_transformer.modules.StaticEmbedding.from_distillation"
    monkeypatch.setattr(target, refuse)
    with pytest.raises(ImportError, match=r"pip install 'st-cluster-batches\[static\]'"):
        load_encoder(f"static:{tiny_bert}", tmp_path)
