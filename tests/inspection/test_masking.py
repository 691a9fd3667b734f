from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import make_pairs, make_static_model

from st_cluster_batches import attach_clusters, inspect
from st_cluster_batches.clusters.strength import score_rankings
from st_cluster_batches.inspection.page import write_page


def test_the_masked_share_is_that_of_the_negatives_above_the_margin(tmp_path: Path) -> None:
    encoder = make_static_model()
    labelled = attach_clusters(make_pairs(300), encoder, n_clusters=3, guide=True)
    found = inspect(labelled, encoder, batch_size=16, sample_rows=200)
    shares = [one.shares["cluster"] for one in found.masks]
    assert all(larger > smaller > 0 for larger, smaller in pairwise(shares))
    zero = next(one for one in found.masks if one.margin == 0)
    # The queries of a batch have equally many negatives, so that the two ways of taking a mean agree.
    assert zero.shares["cluster"] == pytest.approx(found.hardness["cluster"].false_negative_rate, abs=0.01)
    for one in found.masks:
        leads = [
            [pair.negative_similarity - pair.positive_similarity - one.margin for pair in side]
            for side in (one.masked, one.kept)
        ]
        assert len(leads[0]) == len(leads[1]) == 3
        assert min(leads[0]) > 0 > max(leads[1])
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert json.dumps(zero.masked[0].other_passage) in page


def test_a_batch_is_looked_at_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_static_model(dimensions=8)
    labelled = attach_clusters(make_pairs(400), encoder, n_clusters=3)

    def look() -> list[Any]:
        found = inspect(labelled, encoder, batch_size=200, sample_rows=400, show_progress_bar=False)
        pairs = [*found.worst_pairs, *found.near_duplicates]
        pairs += [pair for one in found.masks for side in (one.masked, one.kept) for pair in side]
        numbers = [found.near_duplicate_rate, *(share for one in found.masks for share in one.shares.values())]
        return [len(found.near_duplicates), [(one.row, one.other) for one in pairs], numbers]

    whole = look()
    monkeypatch.setattr("st_cluster_batches.inspection.sample._BLOCK", 200 * 7)  # seven rows, and a last part of four
    assert look() == [*whole[:2], pytest.approx(whole[2])] and whole[0] == 10


def test_a_guide_is_measured_where_its_vectors_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    encoder = make_static_model()
    plain = attach_clusters(make_pairs(100), encoder, n_clusters=2)
    assert inspect(plain, encoder, batch_size=16).strength == {}
    with caplog.at_level("INFO"):
        guided = attach_clusters(make_pairs(100), encoder, n_clusters=2, guide=True)
    found = inspect(guided, encoder, batch_size=16).strength["all"]
    assert f"nDCG@10 {found.ndcg_at_10:.3f} (100 queries among 100 passages)" in caplog.text


def test_ndcg_equals_that_of_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(30, 50)).astype(np.float32)
    is_relevant = rng.random((30, 50)) < 0.1
    is_relevant[:, 0] |= ~is_relevant.any(axis=1)
    expected = [ndcg_score([one], [two], k=10) for one, two in zip(is_relevant, similarity, strict=True)]
    np.testing.assert_allclose(score_rankings(similarity, is_relevant), expected)
    assert score_rankings(similarity[:, :3], np.zeros((30, 3), bool)).tolist() == [0] * 30
