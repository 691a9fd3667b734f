"""Attach clusters in a process of its own: to be killed, launched twice, or to fail; prints a hash of the labels."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import xxhash
from examples import make_pairs, make_static_model

from st_cluster_batches import attach_clusters
from st_cluster_batches.clusters import communities
from st_cluster_batches.storage import chunks

parser = argparse.ArgumentParser()
parser.add_argument("cache")
parser.add_argument("--rows", type=int, default=600)
parser.add_argument("--chunk", type=int, default=32)
parser.add_argument("--pause", type=float, default=0.0, help="seconds that the encoder takes for a chunk")
parser.add_argument("--fail_rank", type=int, help="process whose encoder raises at its third chunk")
parser.add_argument("--communities", type=int, help="cut rows into communities, in coarse groups of so many rows")
parser.add_argument("--file_size", type=int, help="bytes that a file may have at most")
arguments = parser.parse_args()

chunks.CHUNK = arguments.chunk
if arguments.file_size is not None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_size, arguments.file_size))

how: dict[str, Any] = {"n_clusters": 5, "max_cluster_size": 100}
if arguments.communities:
    communities._COARSE_ROWS = arguments.communities
    how = {"cluster_size": 10, "method": "communities"}

model = make_static_model()
encode = model.encode_query
calls: list[int] = []


def watch(texts: list[str], **options: Any) -> Any:
    calls.append(len(texts))
    if len(calls) == 3 and arguments.fail_rank == int(os.environ.get("RANK", "0")):
        raise ValueError("the encoder has had enough")
    time.sleep(arguments.pause)
    return encode(texts, **options)


model.encode_query = watch
labelled = attach_clusters(
    make_pairs(arguments.rows).add_column("source", ["a", "b", "a"] * (arguments.rows // 3)),
    model,
    **how,
    false_negative_threshold=0.9,
    cache_dir=arguments.cache,
    show_progress_bar=False,
)
labels = str([labelled[name][:] for name in ("cluster", "false_negative_keys")])
sys.stdout.write(f"{os.environ.get('RANK', '0')} {sum(calls)} {xxhash.xxh3_64_hexdigest(labels.encode())}\n")
