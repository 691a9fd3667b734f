"""Measure the plan of an epoch against the samplers that it replaces, side by side in one process.

    python tests/bench/bench_plan.py                        # 1M rows, everything
    python tests/bench/bench_plan.py --rows 10_000_000
    python tests/bench/bench_plan.py --rows 100_000_000 --repetitions 1 --ours_only

Prints a Markdown table: medians of interleaved repetitions, with their range. The slow samplers run on fewer rows, as
stated in their line; all figures are per row. The data are 8 sources of 1,000 zipf-sized strata, numbered far apart as
`attach_clusters` does, and a column of lists of keys: 10 % of the rows share one with 1 to 99 others. In a second
variant, "two hashes a row", every row also holds a key of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from sentence_transformers.base.sampler import GroupByLabelBatchSampler, NoDuplicatesBatchSampler
from torch.utils.data import BatchSampler, RandomSampler

from st_cluster_batches import ClusterBatchSampler
from st_cluster_batches.columns import CLUSTER, FALSE_NEGATIVE_KEYS, SOURCE

SOURCES, STRATA = 8, 1000
GROUP = "group"


def make_columns(n_rows: int) -> dict[str, np.ndarray]:
    """Draw labels: zipf-sized strata in every source, and groups of 2 to 100 rows for a tenth of the rows.

    A row outside of these groups has one of its own, a number of at least n_rows.
    """
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, STRATA + 1)
    edges = np.cumsum(weights / weights.sum())
    source = rng.integers(0, SOURCES, n_rows, dtype=np.int8)
    bases = rng.integers(1 << 62, size=SOURCES)
    stratum = np.empty(n_rows, dtype=np.int64)
    for low in range(0, n_rows, 1 << 22):
        part = stratum[low : low + (1 << 22)]
        part[:] = np.searchsorted(edges, rng.random(len(part), dtype=np.float32)).clip(max=STRATA - 1)
        part += bases[source[low : low + (1 << 22)]]
    group = np.arange(n_rows, 2 * n_rows, dtype=np.int32)
    low, end = 0, n_rows // 10
    sizes = np.minimum(1 + rng.geometric(0.4, size=end), 100)
    starts = np.cumsum(sizes) - sizes
    kept = starts + sizes <= end
    group[: int(sizes[kept].sum())] = np.repeat(starts[kept], sizes[kept])
    # Groups lie anywhere in the data, not side by side.
    return {SOURCE: source, CLUSTER: stratum, GROUP: rng.permutation(group)}


def make_dataset(columns: dict[str, np.ndarray], keys_per_row: int = 1) -> Dataset:
    """Make a dataset whose query column stands for texts that the plan never reads."""
    group = columns[GROUP]
    n_rows = len(group)
    # Hashes, as attach writes them: an odd multiplier spreads numbers one to one.
    hashes = (group.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93) & np.uint64((1 << 63) - 1)).astype(np.int64)
    if keys_per_row == 2:
        own = np.random.default_rng(1).integers(1 << 63, size=n_rows)
        offsets, values = np.arange(0, 2 * n_rows + 1, 2, dtype=np.int32), np.stack([own, hashes], axis=1).ravel()
    else:
        is_shared = group < n_rows
        offsets, values = np.concatenate([[0], np.cumsum(is_shared)]).astype(np.int32), hashes[is_shared]
    keys = pa.ListArray.from_arrays(offsets, values)
    visible = {"query": np.zeros(n_rows, dtype=np.int8)}
    labels = {SOURCE: columns[SOURCE], CLUSTER: columns[CLUSTER], FALSE_NEGATIVE_KEYS: keys}
    return Dataset(pa.table({**visible, **labels}))


def make_texts(columns: dict[str, np.ndarray], n_rows: int) -> Dataset:
    """Make texts in which rows of one group share their query, for samplers that compare texts."""
    groups = columns[GROUP][:n_rows]
    texts = {"query": [f"query {one}" for one in groups], "passage": [f"passage {row}" for row in range(n_rows)]}
    return Dataset.from_dict(texts)


def measure(subjects: dict[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Time subjects in turn, so that a slow minute of the machine falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repetitions):
        for name, run in subjects.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def exhaust(batches: Iterable[object]) -> None:
    deque(batches, maxlen=0)


def measure_plan(dataset: Dataset, hashed: Dataset, batch_size: int, repetitions: int) -> dict[str, list[float]]:
    """Time what a user waits for: labels read, epoch planned, batches yielded; and the stock order beside it."""

    def plan(dataset: Dataset = dataset) -> ClusterBatchSampler:
        sampler = ClusterBatchSampler(dataset, batch_size)
        sampler.plan_epoch()
        return sampler

    planned = plan()

    def stock() -> BatchSampler:
        generator = torch.Generator().manual_seed(0)
        return BatchSampler(RandomSampler(dataset, generator=generator), batch_size, False)

    return measure(
        {
            "ours: plan of an epoch": plan,
            "ours: plan and yield an epoch": lambda: exhaust(plan()),
            "ours: plan and yield, two hashes a row": lambda: exhaust(plan(hashed)),
            "ours: yield a planned epoch": lambda: exhaust(planned),
            "ours: skip half an epoch": lambda: exhaust(islice(iter(planned), len(planned) // 2)),
            "ours: first batch": lambda: next(iter(ClusterBatchSampler(dataset, batch_size))),
            "torch: shuffle and yield an epoch": lambda: exhaust(stock()),
            "torch: first batch": lambda: next(iter(stock())),
        },
        repetitions,
    )


def measure_rivals(
    columns: dict[str, np.ndarray], batch_size: int, repetitions: int
) -> list[tuple[str, int, list[float]]]:
    """Time samplers that make the same promise one by one: no duplicates in a batch, or labels in groups."""
    measured = []
    for name, n_rows, options in (
        ("NoDuplicates, hashed", 1_000_000, {"precompute_hashes": True}),
        ("NoDuplicates, plain", 30_000, {}),
    ):
        n_rows = min(n_rows, len(columns[CLUSTER]))
        texts = make_texts(columns, n_rows)
        generator = torch.Generator()
        sampler = NoDuplicatesBatchSampler(texts, batch_size, False, [], generator, **options)
        seconds = measure({name: lambda sampler=sampler: exhaust(sampler)}, min(repetitions, 3))
        measured.append((name, n_rows, seconds[name]))
    n_rows = min(200_000, len(columns[CLUSTER]))
    grouped = Dataset.from_dict({"query": ["x"] * n_rows, "label": columns[CLUSTER][:n_rows]})

    def group() -> None:
        exhaust(GroupByLabelBatchSampler(grouped, batch_size, True, ["label"], torch.Generator()))

    measured.append(("GroupByLabel", n_rows, measure({"": group}, min(repetitions, 3))[""]))
    return measured


def measure_memory(dataset: Dataset, batch_size: int) -> tuple[float, float]:
    """Return bytes per row at the peak of a plan, and those that stay."""
    tracemalloc.start()
    sampler = ClusterBatchSampler(dataset, batch_size)
    sampler.plan_epoch()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / len(dataset), kept / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--ours_only", action="store_true", help="leave out the slow samplers")
    arguments = parser.parse_args()
    columns = make_columns(arguments.rows)
    dataset, hashed = make_dataset(columns), make_dataset(columns, keys_per_row=2)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ",
        end="",
    )
    print(f"numpy {np.__version__}, torch {torch.__version__}")
    print(f"{arguments.rows:,} rows, {SOURCES} x {STRATA} strata, batches of {arguments.batch_size:,}")
    print("\n| what | rows | ns a row | range | seconds |\n|---|---|---|---|---|")

    def report(name: str, n_rows: int, seconds: list[float]) -> None:
        per_row = [1e9 * one / n_rows for one in seconds]
        cells = f"{statistics.median(per_row):,.0f} | {min(per_row):,.0f}-{max(per_row):,.0f}"
        print(f"| {name} | {n_rows:,} | {cells} | {statistics.median(seconds):.3f} |", flush=True)

    for name, seconds in measure_plan(dataset, hashed, arguments.batch_size, arguments.repetitions).items():
        report(name, arguments.rows, seconds)
    print(f"\n{ClusterBatchSampler(dataset, arguments.batch_size).counts}")
    if not arguments.ours_only:
        for rival in measure_rivals(columns, arguments.batch_size, arguments.repetitions):
            report(*rival)
    for name, one in (("", dataset), (" with two hashes a row", hashed)) if arguments.rows <= 10_000_000 else ():
        peak, kept = measure_memory(one, arguments.batch_size)
        print(f"memory of a plan{name}: {peak:.1f} bytes a row at its peak, {kept:.1f} kept")
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
