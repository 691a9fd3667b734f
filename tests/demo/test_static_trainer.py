from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset
from examples import label_pairs, make_pairs, make_static_model

from st_cluster_batches.demo.static_trainer import build_static_trainer
from st_cluster_batches.evaluation.start import Start


def test_tokens_that_no_step_reads_stay_as_they_are(tmp_path: Path) -> None:
    start = Start.load(make_static_model(), tmp_path / "cache")
    assert start.weights is not None
    rows: Dataset = label_pairs(make_pairs(64)).filter(lambda row: row["cluster"] == 1)
    trainer = build_static_trainer(start, rows, "cluster", None, 0.1, 0, tmp_path / "run")
    trainer.train()
    trained = trainer.model[0].embedding.weight.detach().numpy()
    texts = [*rows["query"], *rows["passage"]]
    encodings = start.tokenizer.encode_batch(texts, add_special_tokens=False)
    read = np.unique([token for one in encodings for token in one.ids])
    has_moved = (trained != start.weights).any(axis=1)
    assert 10 < len(read) < len(trained) and has_moved[read].all()
    assert np.count_nonzero(has_moved) == len(read)
