"""Pairs for which it is known whether clusters help, and models that start with what such pairs need."""

from __future__ import annotations

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

N_TOPICS, N_DETAILS = 12, 10
_DIMENSIONS = 24


def make_planted_pairs(n_rows: int, seed: int = 0) -> Dataset:
    """Make pairs of a topic and two details; queries and passages have words of their own for both."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n_rows):
        topic = rng.integers(N_TOPICS)
        details = rng.choice(N_DETAILS, 2, replace=False)
        texts = [
            f"{side}topic{topic} {side}topic{topic} " + " ".join(f"{side}detail{one}" for one in details)
            for side in ("q", "p")
        ]
        rows.append({"query": f"{texts[0]} x{number}", "passage": f"{texts[1]} y{number}"})
    return Dataset.from_list(rows)


def make_planted_model(knows_topics: bool, seed: int = 0) -> SentenceTransformer:
    """Make a static model of random words; it may know which topics of queries and passages are the same.

    One that knows the topics has the details to learn, which only batches of one topic ask of it. One that does not
    can learn them from batches of several topics alone.
    """
    words = [f"{side}{kind}{at}" for side in "qp" for kind, n in _KINDS.items() for at in range(n)]
    tokenizer = Tokenizer(WordLevel({word: at for at, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(len(words) + 1, _DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    weights[0] = 0
    if knows_topics:
        first = {word: at for at, word in enumerate(words, 1)}
        for topic in range(N_TOPICS):
            weights[first[f"ptopic{topic}"]] = weights[first[f"qtopic{topic}"]]
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


_KINDS = {"topic": N_TOPICS, "detail": N_DETAILS}
