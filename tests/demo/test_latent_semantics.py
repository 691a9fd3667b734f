from __future__ import annotations

import pytest

from st_cluster_batches.demo import latent_semantics
from st_cluster_batches.demo.latent_semantics import fit_encoder, train_tokenizer


def test_fitted_encoder_is_the_same_every_time_and_knows_words_that_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_semantics, "_DIMENSIONS", 2)
    texts = ["soup oven bread", "oven bread butter", "boat mast rope", "mast rope sail"] * 40
    vectors = []
    for _ in range(2):
        encoder = fit_encoder(train_tokenizer(texts), texts)
        vectors.append(encoder.encode(["soup", "butter", "boat"], normalize_embeddings=True))
    assert (vectors[0] == vectors[1]).all()
    similarity = vectors[0] @ vectors[0].T
    assert similarity[0, 1] > similarity[0, 2]
