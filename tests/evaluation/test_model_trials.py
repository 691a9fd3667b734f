from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from examples import make_static_model
from planted import make_planted_model, make_planted_pairs

from st_cluster_batches import tune
from st_cluster_batches.evaluation.model_trials import HeldVectors
from st_cluster_batches.evaluation.proxy import Guide, compute_loss
from st_cluster_batches.losses.guided import GuidedMultipleNegativesRankingLoss


def make_units(n_rows: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n_rows, 4, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("margin", [0.0, 0.1, -0.2])
def test_a_real_model_is_masked_as_a_static_one_is(margin: float) -> None:
    queries, passages = make_units(6, 0), make_units(6, 1)
    sides = [make_units(20, seed).numpy().astype(np.float16) for seed in (2, 3)]
    rows = np.array([4, 19, 0, 7, 3, 8])
    is_false = Guide(*sides, margin).find_false(rows)
    loss = GuidedMultipleNegativesRankingLoss(make_static_model(), guide=HeldVectors((), sides), margin=margin)
    keys = torch.from_numpy(HeldVectors.make_keys(20)[rows])
    loss.guide.check_rows(Dataset.from_dict({"query": list("abcdef"), "label": keys.tolist()}))  # as the sampler does
    found = loss.compute_loss_from_embeddings([queries.requires_grad_(True), passages], keys)
    assert 0 < is_false.sum() < 30 and loss.masked_share == pytest.approx(is_false.sum() / 30)
    assert found.item() == pytest.approx(compute_loss(queries, passages, is_false).item(), rel=1e-5)


@pytest.mark.slow
def test_masks_and_communities_are_tried_with_the_model_itself_and_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"batch_size": 64, "n_steps": 2, "n_seeds": 2, "n_workers": 1, "learning_rate": 1e-2}
    choice = tune(
        Dataset.from_dict(make_planted_pairs(400)[:]),
        make_planted_model(True),
        proxy="model",
        guide=True,
        communities=True,
        output_dir=tmp_path,
        cache_dir=tmp_path / "cache",
        show_progress_bar=False,
        **options,
    )
    found = choice.evidence["all"]["differences"]
    assert {(one["method"], one["masked"]) for one in found} == {
        (method, masked) for method in ("kmeans", "communities") for masked in (True, False)
    }
    plain, masked = (
        {one["name"]: one["difference"]["mean"] for one in found if one["masked"] is way} for way in (False, True)
    )
    assert any(masked[f"{name}, masked"] != own for name, own in plain.items())
    said = caplog.text + "".join(capfd.readouterr())
    assert not any(word in said for word in ("Batches of one epoch", "train_runtime", "widget"))


@pytest.mark.slow
def test_a_run_of_the_model_itself_is_a_whole_epoch_unless_its_steps_are_given(tmp_path: Path) -> None:
    pairs, model = Dataset.from_dict(make_planted_pairs(400)[:]), make_planted_model(True)
    options: dict[str, Any] = {"batch_size": 64, "n_seeds": 2, "n_workers": 1, "learning_rate": 1e-2, "proxy": "model"}
    options |= {"cache_dir": tmp_path / "cache", "show_progress_bar": False}
    epoch = tune(pairs, model, output_dir=tmp_path / "epoch", **options)
    n_steps = -(-epoch.evidence["all"]["trained_rows"] // 64)
    assert (epoch.about["epochs"], "steps" in epoch.about) == (1, False)
    steps = tune(pairs, model, output_dir=tmp_path / "steps", n_steps=n_steps, **options)
    fewer = tune(pairs, model, output_dir=tmp_path / "fewer", n_steps=1, **options)
    assert steps.about["steps"] == n_steps > 2
    assert steps.evidence["all"]["ndcg"] == epoch.evidence["all"]["ndcg"] != fewer.evidence["all"]["ndcg"]
