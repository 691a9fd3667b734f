from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss, GISTEmbedLoss

from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.evaluation.runs import identify_guide, measure_tuning


@pytest.mark.parametrize("loss", [GISTEmbedLoss, CachedGISTEmbedLoss])
def test_other_weights_of_a_guide_make_a_run_another_run(tiny_bert: Path, loss: Any) -> None:
    model, guide, same = (SentenceTransformer(str(tiny_bert), device="cpu") for _ in range(3))
    known = identify_guide(loss(model, guide))
    assert known is not None and known == identify_guide(loss(model, same))
    with torch.no_grad():
        next(guide.parameters()).add_(1)
    assert identify_guide(loss(model, guide)) != known


def test_the_time_of_a_tuning_is_not_that_of_another_one(tmp_path: Path) -> None:
    def choose(size: int, seconds: float) -> Choice:
        time.sleep(seconds)
        return Choice({"all": Candidate(size)}, 8, "encoder", "hash")

    first = measure_tuning(lambda: choose(20, 0.2), tmp_path)[1]
    assert first >= 0.2
    assert measure_tuning(lambda: choose(20, 0), tmp_path)[1] == first  # all of it was found done
    assert measure_tuning(lambda: choose(40, 0), tmp_path)[1] < 0.2
    (tmp_path / "seconds.json").write_text("9.5")  # of an earlier version
    assert measure_tuning(lambda: choose(40, 0), tmp_path)[1] == 9.5
