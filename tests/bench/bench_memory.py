"""How much memory attaching takes, by rows, with vectors in place of an encoder.

PYTHONPATH=.:tests/support python tests/bench/bench_memory.py [ROWS ...]

Each number of rows has a process of its own. Rows of 384 dimensions; 10,000,000 take five minutes and 18 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from st_cluster_batches import attach_clusters


def synthetic(rows: np.ndarray) -> np.ndarray:
    """Return (n, 384) unit vectors of 2,000 topics, a function of the row's number."""
    topics = np.random.default_rng(0).normal(size=(2000, 384)).astype(np.float32)
    noise = np.random.default_rng(int(rows[0])).normal(size=(len(rows), 384)).astype(np.float32)
    vectors = topics[(rows * 7919) % 2000] + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_memory(n_rows: int) -> dict[str, int]:
    """Attach clusters to synthetic rows, and say how far memory rose above what was there before."""
    from examples import make_static_model

    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.parquet", n_rows)
        data = load_dataset("parquet", data_files=f"{folder}/rows.parquet", split="train", cache_dir=folder)
        model = make_static_model()
        model.encode_query = lambda texts, **_: synthetic(np.asarray([int(text.split()[1]) for text in texts]))
        attach_clusters(data.select(range(5000)), model, n_clusters=10, cache_dir=folder, show_progress_bar=False)
        before, watch = read_memory(), MemoryWatch()
        start = time.perf_counter()
        watch.start()
        attach_clusters(data, model, n_clusters=100, cache_dir=f"{folder}/cache", show_progress_bar=False)
        watch.is_over.set()
        seconds = time.perf_counter() - start
    sample = 4 * 384 * min(n_rows, 100_000) / 1e6
    return {
        "training sample, MB": round(sample),
        "own memory above start, MB": round((watch.peak["RssAnon"] - before["RssAnon"]) / 1e3),
        "with mapped files, MB": round((watch.peak["VmRSS"] - before["VmRSS"]) / 1e3),
        "seconds": round(seconds),
    }


def write_rows(path: Path, n_rows: int) -> None:
    """Write numbered pairs, a part at a time."""
    schema = pa.schema({"query": pa.string(), "passage": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for low in range(0, n_rows, 100_000):
            rows = range(low, min(n_rows, low + 100_000))
            columns = [[f"{side} {row}" for row in rows] for side in ("query", "passage")]
            writer.write_table(pa.table(columns, schema=schema))


def read_memory() -> dict[str, int]:
    """Return kilobytes of this process: its own (RssAnon), and with the files it maps (VmRSS)."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[0] in ("RssAnon:", "VmRSS:")}


class MemoryWatch(threading.Thread):
    """Keeps the highest memory seen while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = read_memory()
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(0.02):
            now = read_memory()
            self.peak = {name: max(peak, now[name]) for name, peak in self.peak.items()}


def main() -> None:
    """Measure each number of rows, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=int, default=[100_000, 300_000, 1_000_000, 10_000_000])
    parser.add_argument("--in_this_process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for n_rows in arguments.rows:
        if arguments.in_this_process:
            print(json.dumps({"rows": n_rows, **measure_memory(n_rows)}))
        else:
            subprocess.run([sys.executable, __file__, str(n_rows), "--in_this_process"], check=True)


if __name__ == "__main__":
    main()
