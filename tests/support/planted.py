"""Pairs for which it is known whether clusters help, and models that start with what such pairs need."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from st_cluster_batches.data.collection import Collection

N_TOPICS, N_DETAILS = 12, 10
_DIMENSIONS = 24


def make_planted_pairs(n_rows: int, seed: int = 0) -> Dataset:
    """Make pairs of a topic and two details; queries and passages have words of their own for both."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n_rows):
        topic = int(rng.integers(N_TOPICS))
        details = rng.choice(N_DETAILS, 2, replace=False).tolist()
        query, passage = (_write(side, topic, details) for side in "qp")
        rows.append({"query": f"{query} x{number}", "passage": f"{passage} y{number}"})
    return Dataset.from_list(rows)


def make_planted_collection() -> Collection:
    """Make a collection whose queries ask for every topic with half of the pairs of details."""
    known = {
        f"{topic}-{one}-{other}": (topic, (one, other))
        for topic in range(N_TOPICS)
        for one, other in list(combinations(range(N_DETAILS), 2))[::2]
    }
    return Collection(
        {f"q{name}": _write("q", *found) for name, found in known.items()},
        {f"d{name}": ("", _write("p", *found)) for name, found in known.items()},
        {f"q{name}": {f"d{name}": 1} for name in known},
    )


def make_repeated_pairs(n_rows: int) -> tuple[Dataset, Collection]:
    """Make pairs in which all queries of a topic have the same answer, and a collection of 200 more."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n_rows + 200):
        topic = int(rng.integers(N_TOPICS))
        query = _write("q", topic, rng.choice(N_DETAILS, 2, replace=False).tolist())
        rows.append({"query": f"{query} x{number}", "passage": _write("p", topic, ())})
    asked = rows[n_rows:]
    answers = {text: f"d{at}" for at, text in enumerate(sorted({row["passage"] for row in rows}))}
    return Dataset.from_list(rows[:n_rows]), Collection(
        {f"q{at}": row["query"] for at, row in enumerate(asked)},
        {name: ("", text) for text, name in answers.items()},
        {f"q{at}": {answers[row["passage"]]: 1} for at, row in enumerate(asked)},
    )


def _write(side: str, topic: int, details: Iterable[int]) -> str:
    words = [f"{side}topic{topic}"] * 2 + [f"{side}detail{one}" for one in details]
    return " ".join(words)


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
