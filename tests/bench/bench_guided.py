"""What the guided loss costs beside the stock one and GIST, and how long reading its vectors takes.

    PYTHONPATH=.:tests/support python tests/bench/bench_guided.py step MODEL [--batch 64] [--device cuda]
    PYTHONPATH=.:tests/support python tests/bench/bench_guided.py loss [--batch 1024] [--dimensions 384]
    PYTHONPATH=.:tests/support python tests/bench/bench_guided.py memory stock|guided [--batch 8192]
    PYTHONPATH=.:tests/support python tests/bench/bench_guided.py read [--rows 10_000_000] [--dimensions 384]

`step` runs forward and backward passes of a model with the stock loss, again with the stock loss (A/A), the guided
one, and GISTEmbedLoss with the same model as its guide, interleaved. `loss` is the losses alone, on embeddings.
`memory` says by how much one of the two, alone in its process, raises the peak of memory, in bytes for each of the
batch's pairs of rows.
`read` writes random vectors to a temporary folder and takes 1,024 rows in random order, again and again.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from examples import make_pairs
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import GISTEmbedLoss, MultipleNegativesRankingLoss
from sentence_transformers.util import batch_to_device

from st_cluster_batches import GuidedMultipleNegativesRankingLoss
from st_cluster_batches.clusters.guide import GuideVectors
from st_cluster_batches.storage.cache import write_atomically
from st_cluster_batches.storage.chunks import ChunkedArray
from st_cluster_batches.storage.shared_cache import SharedCache


def write_vectors(folder: Path, n_rows: int, dimensions: int) -> np.ndarray:
    """Write random vectors as a guide has them, and return the row keys."""
    import json

    rng = np.random.default_rng(0)
    keys = np.sort(rng.integers(0, 1 << 62, n_rows))
    np.save(folder / "guide-bench.npy", np.stack([keys, rng.permutation(n_rows)]))
    for name in ("vectors-q", "vectors-p"):
        array = ChunkedArray.at(folder / name, n_rows)

        def make(chunk: int, array: ChunkedArray = array) -> np.ndarray:
            low, high = array.bounds(chunk)
            rows = rng.standard_normal((high - low, dimensions), dtype=np.float32)
            return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)

        array.fill(make, SharedCache(folder), name)
    content = {
        "keys": "guide-bench.npy",
        "rows": n_rows,
        "columns": ["query", "passage"],
        "vectors": ["vectors-q", "vectors-p"],
        "encoder": "bench",
        "encoder_hash": "0" * 32,
    }
    write_atomically(folder / "guide-bench.json", json.dumps(content))
    return keys


def compare(runs: dict[str, Callable[[], Any]], repetitions: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            times[name].append(time.perf_counter() - start)
    baseline = times["stock"][1:]
    for name, own in times.items():
        ratios = sorted(one / other for one, other in zip(own[1:], baseline, strict=True))
        print(
            f"{name:>10}: {median(own[1:]) * 1000:9.2f} ms, to stock {median(ratios):.3f} "
            f"[{ratios[0]:.3f}-{ratios[-1]:.3f}]"
        )


def bench_step(model_path: str, batch: int, dimensions: int, repetitions: int, device: str) -> None:
    model = SentenceTransformer(model_path, device=device)
    teacher = SentenceTransformer(model_path, device=device)
    pairs = make_pairs(batch)
    words = [" ".join([text] * 6) for text in pairs["passage"]]
    features = [pairs["query"][:], words]
    with tempfile.TemporaryDirectory() as temporary:
        keys = write_vectors(Path(temporary), 100_000, dimensions)
        labels = torch.from_numpy(as_row_keys(keys, Path(temporary), batch)).to(device)
        losses = {
            "stock": MultipleNegativesRankingLoss(model),
            "stock again": MultipleNegativesRankingLoss(model),
            "guided": GuidedMultipleNegativesRankingLoss(model, guide=temporary),
            "gist": GISTEmbedLoss(model, teacher, contrast_anchors=False, contrast_positives=False),
        }

        def step(loss: torch.nn.Module) -> None:
            model.zero_grad()
            inputs = [batch_to_device(model.preprocess(texts), model.device) for texts in features]
            loss(inputs, labels).backward()

        compare({name: (lambda loss=loss: step(loss)) for name, loss in losses.items()}, repetitions)


def bench_loss(batch: int, dimensions: int, repetitions: int) -> None:
    """Compare the losses alone, on embeddings: what is added to a step of any model."""
    with tempfile.TemporaryDirectory() as temporary:
        keys = write_vectors(Path(temporary), 100_000, dimensions)
        labels = torch.from_numpy(as_row_keys(keys, Path(temporary), batch))
        embeddings = [torch.randn(batch, dimensions, requires_grad=True) for _ in range(2)]
        model = torch.nn.Identity()
        losses = {
            "stock": MultipleNegativesRankingLoss(model),
            "stock again": MultipleNegativesRankingLoss(model),
            "guided": GuidedMultipleNegativesRankingLoss(model, guide=temporary),
        }

        def step(loss: Any) -> None:
            loss.compute_loss_from_embeddings(embeddings, labels).backward()

        compare({name: (lambda loss=loss: step(loss)) for name, loss in losses.items()}, 10 * repetitions)


def bench_memory(kind: str, batch: int, dimensions: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        keys = write_vectors(Path(temporary), 20_000, dimensions)
        labels = torch.from_numpy(as_row_keys(keys, Path(temporary), batch))
        embeddings = [torch.randn(batch, dimensions, requires_grad=True) for _ in range(2)]
        model = torch.nn.Identity()
        loss = (
            MultipleNegativesRankingLoss(model)
            if kind == "stock"
            else GuidedMultipleNegativesRankingLoss(model, guide=temporary)
        )
        for n_rows in (64, batch):  # the first step loads what every step needs
            own = [one[:n_rows].detach().requires_grad_() for one in embeddings]
            before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            loss.compute_loss_from_embeddings(own, labels[:n_rows]).backward()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{kind}: {(peak - before) / batch**2:.1f} bytes a pair of rows")


def as_row_keys(keys: np.ndarray, folder: Path, n_rows: int) -> np.ndarray:
    """Give some rows keys that pass for row keys, in the index as well."""
    from st_cluster_batches.row_keys import certify_keys

    certified = np.sort(certify_keys(keys.astype(np.uint64)))
    rows = np.load(folder / "guide-bench.npy")[1]
    np.save(folder / "guide-bench.npy", np.stack([certified, rows]))
    return np.random.default_rng(1).choice(certified, n_rows, replace=False)


def bench_read(n_rows: int, dimensions: int, repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        keys = write_vectors(Path(temporary), n_rows, dimensions)
        guide = GuideVectors.open(temporary)
        rng = np.random.default_rng(2)
        wanted = [rng.choice(keys, 1024) for _ in range(repetitions)]
        for name in ("cold", "warm"):
            times = []
            for one in wanted:
                start = time.perf_counter()
                guide.take(one, 2)
                times.append(1000 * (time.perf_counter() - start))
            print(
                f"{name}: both vectors of 1,024 of {n_rows:,} rows: {median(times):.2f} ms "
                f"[{min(times):.2f}-{max(times):.2f}]"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("step", "loss", "memory", "read"))
    parser.add_argument("model", nargs="?")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="of a step")
    arguments = parser.parse_args()
    if arguments.part == "step":
        bench_step(arguments.model, arguments.batch, arguments.dimensions, arguments.repetitions, arguments.device)
    elif arguments.part == "memory":
        bench_memory(arguments.model, arguments.batch, arguments.dimensions)
    elif arguments.part == "loss":
        bench_loss(arguments.batch, arguments.dimensions, arguments.repetitions)
    else:
        bench_read(arguments.rows, arguments.dimensions, arguments.repetitions)


if __name__ == "__main__":
    main()
