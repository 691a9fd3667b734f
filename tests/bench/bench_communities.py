"""What communities cost beside as many clusters by k-means.

PYTHONPATH=. python tests/bench/bench_communities.py DATA MODEL [--rows N ...]

DATA is a folder of parquet files of pairs, MODEL the model whose distilled static encoder embeds them. All rows are
one source, cut once into parts of 32 rows by either way: single runs, for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_attach import embed
from datasets import load_dataset

from st_cluster_batches.clusters.communities import find_communities
from st_cluster_batches.clusters.encoder import load_encoder
from st_cluster_batches.clusters.kmeans import NearestCentroid
from st_cluster_batches.clusters.two_level_kmeans import fit_in_cells
from st_cluster_batches.storage.cache import default_cache_dir

_SIZE = 32


def cut_by_k_means(queries: np.ndarray) -> np.ndarray:
    """Return the cluster of every row."""
    centroids = fit_in_cells(lambda rows: queries[rows], len(queries), len(queries) // _SIZE, seed=0, niter=20)
    return NearestCentroid(centroids).find(queries)[0]


def measure(cut: Callable[[], np.ndarray]) -> dict[str, object]:
    """Return how long it takes to cut rows into parts, and how even these are."""
    started = time.perf_counter()
    labels = cut()
    seconds = time.perf_counter() - started
    sizes = np.percentile(np.bincount(labels), (1, 50, 99)).astype(int).tolist()
    return {"seconds": round(seconds, 1), "rows of a part, percentiles 1, 50 and 99": sizes}


def main() -> None:
    """Embed all rows, cut some of them, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, nargs="+", default=(10_000, 50_000, 300_000))
    arguments = parser.parse_args()
    model = load_encoder(f"static:{arguments.model}", default_cache_dir())
    some = load_dataset("parquet", data_files=str(arguments.data / "*.parquet"), split="train").shuffle(seed=1)
    some = some.select(range(min(max(arguments.rows), len(some)))).flatten_indices()
    queries = embed(model, some["query"][:], batch_size=2048)
    passages = np.asarray(model.encode_document(some["passage"][:], normalize_embeddings=True, batch_size=2048))
    for n_rows in arguments.rows:
        found = {
            "communities": measure(lambda n=n_rows: find_communities(queries[:n], passages[:n], _SIZE)),
            "k-means": measure(lambda n=n_rows: cut_by_k_means(queries[:n])),
        }
        print(json.dumps({"rows": n_rows, "dimensions": queries.shape[1], **found}), flush=True)


if __name__ == "__main__":
    main()
