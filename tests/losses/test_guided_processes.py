from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from examples import make_pairs, make_static_model, make_tiny_bert
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from st_cluster_batches import attach_clusters

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "GuidedMultipleNegativesRankingLoss",
        pytest.param("CachedGuidedMultipleNegativesRankingLoss", marks=pytest.mark.slow),
    ],
)
def test_two_processes_that_gather_equal_one_with_the_joint_batch(tmp_path: Path, kind: str) -> None:
    transformer = Transformer(str(make_tiny_bert(tmp_path / "bert", 0.0)))
    SentenceTransformer(modules=[transformer, Pooling(16)]).save(str(tmp_path / "model"))
    rows = make_pairs(16).add_column("negative_0", make_pairs(16, seed=1)["passage"])
    guide = make_static_model(seed=5)
    attach_clusters(rows, guide, n_clusters=2, guide=True, cache_dir=tmp_path / "cache").save_to_disk(
        str(tmp_path / "rows")
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), str(ROOT), os.environ.get("PYTHONPATH", "")])
    for world in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if world > 1 else []
        command = [sys.executable, *launcher, str(SUPPORT / "guided_worker.py"), str(tmp_path), kind]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    alone, together = (torch.load(tmp_path / f"{kind}-{world}.pt") for world in (1, 2))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
