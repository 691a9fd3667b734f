"""Small models and pairs that every test can make in milliseconds."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

TOPICS = {
    topic: words.split()
    for topic, words in (
        ("cooking", "soup salt oven bread butter onion garlic pan boil roast sauce flour"),
        ("sailing", "boat mast rope wind harbour sail anchor deck tide hull rudder keel"),
        ("chess", "pawn queen king rook bishop check mate board castle endgame gambit tempo"),
    )
}


WORDS = sorted({word for words in TOPICS.values() for word in words})


def make_static_model(dimensions: int = 16, seed: int = 0) -> SentenceTransformer:
    """Build a SentenceTransformer that encodes thousands of texts a second and needs no download."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: at for at, word in enumerate(WORDS, 1)}}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(len(WORDS) + 1, dimensions, generator=torch.Generator().manual_seed(seed))
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")


def make_pairs(n_rows: int, seed: int = 0) -> Dataset:
    """Make pairs on three topics: four words each, with a serial number so that all texts differ."""
    rng = random.Random(seed)
    rows = []
    for number in range(n_rows):
        topic = rng.choice(sorted(TOPICS))
        texts = [f"{' '.join(rng.choices(TOPICS[topic], k=4))} {side}{number}" for side in ("q", "p")]
        rows.append({"query": texts[0], "passage": texts[1]})
    return Dataset.from_list(rows)


def label_pairs(pairs: Dataset) -> Dataset:
    """Label pairs by hand: the topic as cluster, and in every row a key that no other has."""
    topic_of = {word: topic for topic, words in enumerate(TOPICS.values()) for word in words}
    clusters = [topic_of[query.split()[0]] for query in pairs["query"]]
    labelled = pairs.add_column("source", ["all"] * len(pairs))
    labelled = labelled.add_column("cluster", clusters)
    return labelled.add_column("false_negative_keys", [[at + 1] for at in range(len(pairs))])


def make_tiny_bert(path: Path, dropout: float = 0.1) -> Path:
    """Save a two-layer BERT with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (path / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(path)
    return path
