from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss, GISTEmbedLoss

from st_cluster_batches.evaluation.runs import identify_guide


@pytest.mark.parametrize("loss", [GISTEmbedLoss, CachedGISTEmbedLoss])
def test_other_weights_of_a_guide_make_a_run_another_run(tiny_bert: Path, loss: Any) -> None:
    model, guide, same = (SentenceTransformer(str(tiny_bert), device="cpu") for _ in range(3))
    known = identify_guide(loss(model, guide))
    assert known is not None and known == identify_guide(loss(model, same))
    with torch.no_grad():
        next(guide.parameters()).add_(1)
    assert identify_guide(loss(model, guide)) != known
