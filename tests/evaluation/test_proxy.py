from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from examples import make_static_model
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from st_cluster_batches.evaluation.proxy import (
    Bags,
    Guide,
    Judged,
    compute_loss,
    embed,
    embed_all,
    rank_documents,
    train_embeddings,
)
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.labels import Labels

TEXTS = ["soup salt oven", "boat", "pawn queen king rook", "mast rope", "flour"]


def make_bags(texts: list[str], max_tokens: int = 100) -> Bags:
    return Bags.tokenize(make_static_model()[0].tokenizer, texts, max_tokens)


def make_units(n_rows: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n_rows, 4, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def test_texts_are_embedded_as_the_model_embeds_them() -> None:
    model = make_static_model()
    wanted = model.encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)
    weights = model[0].embedding.weight.detach()
    assert torch.allclose(embed_all(weights, make_bags(TEXTS)), wanted, atol=1e-6)
    some = embed(weights, make_bags(TEXTS), np.array([3, 0, 3]))
    assert torch.allclose(some, wanted[[3, 0, 3]], atol=1e-6)


def test_long_texts_are_cut_and_empty_ones_are_zero() -> None:
    bags = make_bags([*TEXTS, ""], max_tokens=2)
    assert np.diff(bags.starts).tolist() == [2, 1, 2, 2, 1, 0]
    assert embed_all(make_static_model()[0].embedding.weight.detach(), bags)[-1].norm() == 0


def test_the_loss_is_that_of_the_stock_loss() -> None:
    model, queries, passages = make_static_model(), make_units(6, 0), make_units(6, 1)
    stock = MultipleNegativesRankingLoss(model).compute_loss_from_embeddings([queries, passages], None)
    assert compute_loss(queries, passages, None).item() == pytest.approx(stock.item(), rel=1e-5)


def test_the_masked_loss_is_what_brute_force_gives() -> None:
    queries, passages = make_units(6, 0), make_units(6, 1)
    guide = Guide(*(make_units(20, seed).numpy().astype(np.float16) for seed in (2, 3)), margin=0.1)
    rows = np.array([4, 19, 0, 7, 3, 8])
    total, n_masked = 0.0, 0
    for at, row in enumerate(rows):
        own = float(guide.queries[row].astype(np.float32) @ guide.passages[row].astype(np.float32))
        kept = []
        for other, passage in enumerate(rows):
            similarity = float(guide.queries[row].astype(np.float32) @ guide.passages[passage].astype(np.float32))
            if other == at or similarity <= own + 0.1:
                kept.append(math.exp(20 * float(queries[at] @ passages[other])))
            else:
                n_masked += 1
        total -= math.log(math.exp(20 * float(queries[at] @ passages[at])) / sum(kept))
    assert 0 < n_masked < 30
    assert compute_loss(queries, passages, guide.find_false(rows)).item() == pytest.approx(total / 6, rel=1e-4)


def test_ndcg_is_what_brute_force_gives() -> None:
    queries, documents = make_units(5, 0), make_units(30, 1)
    relevant = {0: [3], 1: [7, 9, 20], 2: list(range(15)), 3: [29], 4: [0, 1]}
    pairs = np.array([(query, document) for query, own in relevant.items() for document in own])
    found = rank_documents(queries, documents, Judged(make_bags([]), pairs[:, 0], pairs[:, 1]))
    for query, own in relevant.items():
        ranked = (-(documents @ queries[query])).argsort()[:10].tolist()
        gain = sum(1 / math.log2(at + 2) for at, document in enumerate(ranked) if document in own)
        assert found[query] == pytest.approx(gain / sum(1 / math.log2(at + 2) for at in range(min(10, len(own)))))


def train(rate: float = 0.05, seed: int = 0) -> torch.Tensor:
    weights = make_static_model()[0].embedding.weight.detach().clone()
    bags = make_bags(TEXTS * 8), make_bags([text.split()[-1] for text in TEXTS * 8])
    strata = np.arange(40) % 5 // 3
    train_embeddings(weights, bags, BatchPlan(Labels(strata, np.zeros(2, dtype=np.int64)), 4, seed=seed), rate)
    return weights


def test_training_is_a_function_of_its_seed_and_leaves_global_randomness_alone() -> None:
    state = torch.get_rng_state()
    assert torch.equal(train(), train())
    assert not torch.equal(train(), train(seed=1))
    assert torch.equal(state, torch.get_rng_state())


def test_only_tokens_that_are_read_change() -> None:
    model = make_static_model()
    before, after = model[0].embedding.weight.detach(), train()
    read = sorted({token for one in model[0].tokenizer.encode_batch(TEXTS) for token in one.ids})
    changed = (before != after).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == read
