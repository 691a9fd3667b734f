"""Computes a guided loss on this process's share of one batch, as a launcher starts it. Not a test itself.

Usage: guided_worker.py FOLDER KIND, where FOLDER holds labelled rows (`rows`), the model to train (`model`) and the
cache; the first process writes the mean loss and gradients over all processes to `KIND-WORLD.pt`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from datasets import load_from_disk
from sentence_transformers import SentenceTransformer
from torch import distributed

from st_cluster_batches.losses import guided


def main(folder: Path, kind: str) -> None:
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world > 1:
        distributed.init_process_group("gloo")
    rows = load_from_disk(str(folder / "rows"))
    model = SentenceTransformer(str(folder / "model"), device="cpu").eval()
    cached = {"mini_batch_size": 3} if kind.startswith("Cached") else {}
    loss = getattr(guided, kind)(
        model,
        guide=folder / "cache",
        margin=-0.05,
        directions=("query_to_doc", "doc_to_query", "doc_to_doc"),
        teacher_weight=0.3,
        gather_across_devices=True,
        **cached,
    )
    share = rows.shard(world, rank, contiguous=True)
    features = [model.preprocess(share[name][:]) for name in ("query", "passage", "negative_0")]
    value = loss(features, torch.tensor(share["label"][:]))
    value.backward()
    tensors = [value.detach(), *(one.grad for one in model.parameters() if one.grad is not None)]
    for one in tensors if world > 1 else []:
        distributed.all_reduce(one)
        one /= world
    if rank == 0:
        torch.save(tensors, folder / f"{kind}-{world}.pt")
    if world > 1:
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
