"""What clustering costs, and what cheap encoders lose.

PYTHONPATH=.:tests/support python tests/bench/bench_attach.py DATA MODEL [encoders batches overhead sample assign near]

DATA is a folder of parquet files of pairs, MODEL the full encoder (all-MiniLM-L6-v2 in README's table). All ratios
are medians of interleaved repetitions in one process, with their range; A/A is the same thing against itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import distributions, version
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from bench_memory import synthetic
from datasets import Dataset, concatenate_datasets, load_dataset
from sentence_transformers import SentenceTransformer
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_mutual_info_score

from st_cluster_batches import attach_clusters
from st_cluster_batches.clusters import kmeans
from st_cluster_batches.clusters.encoder import choose_batch_size, load_encoder
from st_cluster_batches.clusters.kmeans import NearestCentroid, fit_centroids
from st_cluster_batches.clusters.two_level_kmeans import fit_in_cells
from st_cluster_batches.storage.cache import default_cache_dir

SOURCES = ("debian_packages", "stackexchange", "medquad", "acl_anthology")
Report = dict[str, Any]


def load(data: Path, source: str, n_rows: int) -> Dataset:
    """Load some rows of a source, the same on every call."""
    rows = load_dataset("parquet", data_files=str(data / f"{source}.parquet"), split="train")
    return rows.shuffle(seed=0).select(range(min(n_rows, len(rows)))).flatten_indices()


def embed(model: SentenceTransformer, texts: list[str], **options: Any) -> np.ndarray:
    """Return unit vectors of queries."""
    return np.asarray(model.encode_query(texts, normalize_embeddings=True, show_progress_bar=False, **options))


def cluster(vectors: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Return cluster numbers."""
    return NearestCentroid(fit_centroids(vectors, k, seed=seed, niter=20)).find(vectors)[0]


def interleave(repetitions: int, **cases: Callable[[], Any]) -> dict[str, list[float]]:
    """Time several things turn by turn."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repetitions):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Say a median of ratios with its range."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{median(ratios):.3f} [{min(ratios):.3f}-{max(ratios):.3f}]"


def bench_encoders(data: Path, full: str, rows: int) -> Report:
    """Rows a second and agreement of clusters: static against full, truncated, half precision, batch sizes."""
    model, static = SentenceTransformer(full), load_encoder(f"static:{full}", default_cache_dir())
    report: Report = {}
    for source in SOURCES:
        texts = load(data, source, rows)["query"][:]
        start = time.perf_counter()
        vectors = embed(model, texts)
        seconds = time.perf_counter() - start
        times = interleave(7, static=lambda texts=texts: embed(static, texts, batch_size=2048))["static"]
        k = max(10, len(texts) // 100)
        reference = cluster(vectors, k)

        def agree(other: np.ndarray, seed: int = 0, k: int = k, reference: np.ndarray = reference) -> float:
            other = other / np.linalg.norm(other, axis=1, keepdims=True)
            return round(float(adjusted_mutual_info_score(reference, cluster(other, k, seed))), 3)

        static_vectors = embed(static, texts)
        report[source] = {
            "rows": len(texts),
            "k": k,
            "full rows/s": round(len(texts) / seconds),
            "static rows/s": round(len(texts) / median(times)),
            "AMI of another seed of the full": agree(vectors, seed=1),
            "AMI of static": agree(static_vectors),
            "AMI of float16 full": agree(vectors.astype(np.float16).astype(np.float32)),
            **{f"AMI of full, first {dim}": agree(vectors[:, :dim]) for dim in (256, 128, 64)},
            **{f"AMI of static, first {dim}": agree(static_vectors[:, :dim]) for dim in (128, 64)},
        }
    texts = load(data, "debian_packages", 4096)["query"][:]
    few = texts[:128]
    batches = {
        "static rows/s by batch size": (static, texts, (32, 128, 512, 1024, 2048, 4096)),
        "full rows/s by batch size": (model, few, (16, 32, 64, 128)),
    }
    for name, (encoder, some, sizes) in batches.items():
        cases = {str(n): lambda n=n, e=encoder, t=some: embed(e, t, batch_size=n) for n in sizes}
        report[name] = {n: round(len(some) / median(times)) for n, times in interleave(3, **cases).items()}
    unsorted = interleave(
        3,
        sorted=lambda: embed(model, few),
        unsorted=lambda: [embed(model, few[low : low + 32]) for low in range(0, len(few), 32)],
    )
    report["sorting by length, unsorted / sorted"] = ratio(unsorted["unsorted"], unsorted["sorted"])
    return report


def bench_batches(data: Path, full: str, rows: int) -> Report:
    """Texts a second by the number that the encoder sees at once, on a GPU if there is one."""
    model = SentenceTransformer(full)
    some = load(data, "medquad", rows)
    report: Report = {"device": str(model.device)}
    for side in ("query", "passage"):
        texts = some[side][:]
        embed(model, texts[:64])
        cases = {str(n): lambda n=n, t=texts: embed(model, t, batch_size=n) for n in (32, 64, 128, 256, 512, 1024)}
        report[side] = {n: round(len(texts) / median(times)) for n, times in interleave(3, **cases).items()}
    return report


def bench_overhead(data: Path, full: str, rows: int) -> Report:
    """Everything in attach against a bare `encode` of the same rows, in batches of the same size.

    Whole runs against each other are the fair measure, and a noisy one: `outside encode` is what one run of attach
    spends elsewhere than in the encoder, relative to the bare encode.
    """
    report: Report = {}
    model, static = SentenceTransformer(full), load_encoder(f"static:{full}", default_cache_dir())
    everything = load_dataset("parquet", data_files=str(data / "*.parquet"), split="train").shuffle(seed=1)
    for name, encoder, n_rows, repetitions in (
        ("static", static, 30_000, 21),
        ("static, all rows", static, len(everything), 7),
        ("full", model, rows, 5),
    ):
        some = everything.select(range(min(n_rows, len(everything)))).flatten_indices()
        batch_size = choose_batch_size(encoder)
        outside: list[float] = []

        def attach(encoder: SentenceTransformer = encoder, some: Dataset = some, outside: Any = outside) -> None:
            start, watch = time.perf_counter(), EncodeWatch(encoder)
            with tempfile.TemporaryDirectory() as cache, watch:
                attach_clusters(some, encoder, n_clusters=10, cache_dir=cache, show_progress_bar=False)
            outside.append(time.perf_counter() - start - watch.seconds)

        def encode(encoder: SentenceTransformer = encoder, some: Dataset = some, size: int = batch_size) -> None:
            embed(encoder, some["query"][:], batch_size=size)

        times = interleave(repetitions, attach=attach, encode=encode, again=encode)
        report[name] = {
            "rows": len(some),
            "attach / encode": ratio(times["attach"], times["encode"]),
            "A/A": ratio(times["again"], times["encode"]),
            "outside encode / encode": ratio(outside, times["encode"]),
            "outside encode, us/row": round(1e6 * median(outside) / len(some), 1),
        }
    return report


class EncodeWatch:
    """Counts the seconds that a model spends embedding queries."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model, self.seconds = model, 0.0

    def __enter__(self) -> None:
        encode = self.model.encode_query

        def watch(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            vectors = encode(*arguments, **options)
            self.seconds += time.perf_counter() - start
            return vectors

        self.model.encode_query = watch

    def __exit__(self, *_: object) -> None:
        del self.model.encode_query


def bench_sample(data: Path, full: str, _: int) -> Report:
    """Mean similarity that our k-means loses against FAISS's on all rows, over seeds: by sample, and by source."""
    static = load_encoder(f"static:{full}", default_cache_dir())
    sources = {path.stem: embed_source(static, data, path.stem) for path in sorted(data.glob("*.parquet"))}
    names = ("wordnet_glosses", "jeopardy_clues", "python_docstrings", "debian_packages")
    mixed = np.concatenate([sources[name] for name in names])
    report: Report = {"rows": len(mixed)}
    for k in (10, 100, 500):
        rows = kmeans.sample_positions(len(mixed), k, 0)
        sampled, plain, *_ = measure_similarity(mixed, mixed[rows], k, seed=0)
        report[f"k = {k}, ours on {len(rows)} rows, loss"] = f"{100 * (1 - sampled / plain):.2f} %"
    losses, seconds = {}, []
    for name, vectors in sources.items():
        found = np.asarray([measure_similarity(vectors, vectors, 10, seed) for seed in range(10)]).mean(axis=0)
        losses[name] = float(100 * (1 - found[0] / found[1]))
        seconds.append(found[2:])
    report["k = 10, ours on all rows of a source, mean loss"] = f"{np.mean(list(losses.values())):.2f} %"
    worst = max(losses, key=lambda name: losses[name])
    report["the largest, of a source"] = f"{losses[worst]:.2f} % ({worst})"
    report["time of all, ours / FAISS"] = round(float(np.divide(*np.sum(seconds, axis=0))), 2)
    return report


def bench_cells(data: Path, full: str, _: int) -> Report:
    """Thousands of centroids of all sources together: within cells, and by one k-means."""
    static = load_encoder(f"static:{full}", default_cache_dir())
    rows = np.concatenate([embed_source(static, data, path.stem) for path in sorted(data.glob("*.parquet"))])
    report: Report = {"rows": len(rows), "dimensions": rows.shape[1]}
    for k in (1000, len(rows) // 32):
        started = time.perf_counter()
        flat = fit_centroids(rows, k, seed=0, niter=20)
        middle = time.perf_counter()
        cells = fit_in_cells(lambda positions: rows[positions], len(rows), k, seed=0, niter=20)
        times = middle - started, time.perf_counter() - middle
        found = [NearestCentroid(one).find(rows) for one in (flat, cells)]
        loss = 100 * (1 - found[1][1].mean() / found[0][1].mean())
        report[f"k = {k}, mean similarity that cells lose"] = f"{loss:.2f} %"
        report[f"k = {k}, seconds of one k-means, of cells"] = f"{times[0]:.0f}, {times[1]:.0f}"
        half, most = (
            [int(np.percentile(np.bincount(nearest, minlength=k), share)) for nearest, _ in found]
            for share in (50, 99)
        )
        report[f"k = {k}, rows of a cluster, median and 99th percentile"] = (
            f"{half[0]}, {most[0]}; {half[1]}, {most[1]}"
        )
    return report


def embed_source(static: SentenceTransformer, data: Path, name: str) -> np.ndarray:
    """Return unit vectors of up to 50,000 queries of a source."""
    return embed(static, load(data, name, 50_000)["query"][:], batch_size=2048)


def measure_similarity(vectors: np.ndarray, sample: np.ndarray, k: int, seed: int) -> tuple[float, ...]:
    """Return the mean similarity to our centroids of a sample, to FAISS's own of all rows, and both times."""
    start = time.perf_counter()
    ours = fit_centroids(sample, k, seed=seed, niter=20)
    middle = time.perf_counter()
    plain = fit_by_hand(vectors, k, seed)
    times = middle - start, time.perf_counter() - middle
    similarity = (float(NearestCentroid(one).find(vectors)[1].mean()) for one in (ours, plain))
    return *similarity, *times


def fit_by_hand(vectors: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Return the centroids that FAISS finds when it is called without us, on all rows."""
    kmeans = faiss.Kmeans(
        vectors.shape[1], k, niter=20, spherical=True, seed=seed, max_points_per_centroid=len(vectors)
    )
    kmeans.train(vectors)
    return kmeans.centroids


def bench_assign(*_: Any) -> Report:
    """Assignment against GEMM, and training against FAISS by hand and scikit-learn."""
    rng = np.random.default_rng(0)
    vectors = synthetic(np.arange(65_536))
    centroids = synthetic(rng.choice(65_536, 1000, replace=False))
    nearest, left = NearestCentroid(centroids), torch.from_numpy(vectors)
    right = torch.from_numpy(centroids.T.copy())

    def assign() -> None:
        for low in range(0, len(vectors), 4096):
            nearest.find(vectors[low : low + 4096])

    def multiply() -> None:
        for low in range(0, len(vectors), 4096):
            torch.mm(left[low : low + 4096], right)

    times = interleave(7, assign=assign, gemm=multiply, again=multiply)
    report: Report = {
        "assign / GEMM, k = 1000": ratio(times["assign"], times["gemm"]),
        "A/A": ratio(times["again"], times["gemm"]),
        "GEMM GF/s": round(2 * len(vectors) * 384 * 1000 / median(times["gemm"]) / 1e9),
    }
    few = vectors[:20_000]
    found: dict[str, np.ndarray] = {}

    def by_hand() -> None:
        found["faiss"] = fit_by_hand(few, 100)

    def by_sklearn() -> None:
        found["sklearn"] = MiniBatchKMeans(100, random_state=0, n_init=1).fit(few).cluster_centers_

    def ours() -> None:
        found["ours"] = fit_centroids(few, 100, seed=0, niter=20)

    times = interleave(5, ours=ours, faiss=by_hand, sklearn=by_sklearn)
    for name in ("faiss", "sklearn"):
        report[f"training, ours / {name}"] = ratio(times["ours"], times[name])
    for name, centres in found.items():
        centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        report[f"mean similarity, {name}"] = round(float((few @ centres.T).max(axis=1).mean()), 4)
    return report


def bench_near(data: Path, full: str, _: int) -> Report:
    """Near-duplicates found within clusters against all pairs there are, and the cost by rows."""
    static = load_encoder(f"static:{full}", default_cache_dir())
    mixed = concatenate_datasets([load(data, source, 9_000) for source in SOURCES]).shuffle(seed=1)
    report: Report = {}
    for n_rows in (9_000, 18_000, 36_000):
        some = mixed.select(range(min(n_rows, len(mixed)))).flatten_indices()
        passages = np.asarray(static.encode_document(some["passage"][:], normalize_embeddings=True))
        index = faiss.IndexFlatIP(passages.shape[1])
        index.add(passages)
        limits, _, ends = index.range_search(passages, 0.95)
        starts = np.repeat(np.arange(len(some)), np.diff(limits.astype(np.int64)))
        starts, ends = starts[ends > starts], ends[ends > starts]
        with tempfile.TemporaryDirectory() as cache:
            options: Report = {"n_clusters": 10, "cache_dir": cache, "show_progress_bar": False}
            attach_clusters(some, static, key="both", **options)
            start = time.perf_counter()
            labelled = attach_clusters(some, static, key="both", false_negative_threshold=0.95, **options)
            seconds = time.perf_counter() - start
        keys = [set(one) for one in labelled["false_negative_keys"]]
        found = [bool(keys[one] & keys[other]) for one, other in zip(starts.tolist(), ends.tolist(), strict=True)]
        report[f"{len(some):,} rows"] = {
            "pairs of different rows above 0.95": len(starts),
            "of these that share a key": f"{np.mean(found):.1%}",
            "us/row": round(1e6 * seconds / len(some)),
            "most keys of a row": max(map(len, keys)),
        }
    return report


def main() -> None:
    """Run what was asked for, and print it."""
    benches = {
        "encoders": bench_encoders,
        "batches": bench_batches,
        "overhead": bench_overhead,
        "sample": bench_sample,
        "cells": bench_cells,
        "assign": bench_assign,
        "near": bench_near,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model")
    parser.add_argument("which", nargs="*", default=list(benches))
    parser.add_argument("--rows", type=int, default=1500, help="rows that the full encoder sees of each source")
    arguments = parser.parse_args()
    packages = ("sentence-transformers", "torch", "faiss-cpu", "scikit-learn", "model2vec")
    installed = {one: version(one) for one in packages if any(distributions(name=one))}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    print(json.dumps({**machine, "python": platform.python_version(), **installed}))
    for name in arguments.which:
        print(json.dumps({name: benches[name](arguments.data, arguments.model, arguments.rows)}, indent=2), flush=True)


if __name__ == "__main__":
    main()
