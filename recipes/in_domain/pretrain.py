"""Pretrain a small BERT on passages alone: a start that no pair has ever been shown to.

    python recipes/in_domain/pretrain.py DATA --output MODEL

DATA is a folder of SOURCE.parquet files with the column passage, of which 12,000 of each are read. The tokenizer, a
WordPiece of 8,192 tokens, is trained on all of them, and so is the model, by masked language modelling (arXiv
1810.04805): 4 layers of 256 dimensions, sequences of 128 tokens that run over the ends of passages, 15 % of the tokens
hidden. What is saved is a SentenceTransformer that averages token vectors, for full_length.py to train.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

VOCABULARY = 8192
LENGTH = 128
_HELD_OUT = 50  # one sequence of so many is kept to measure the loss on


def read_passages(folder: Path, n_rows: int) -> list[str]:
    """Return the distinct passages of all sources, so many of each at random, as full_length.py takes pairs."""
    found = [pd.read_parquet(path, columns=["passage"])["passage"] for path in sorted(folder.glob("*.parquet"))]
    return pd.concat([one.sample(min(len(one), n_rows), random_state=0) for one in found]).drop_duplicates().tolist()


def train_tokenizer(passages: list[str], folder: Path) -> BertTokenizerFast:
    """Train a WordPiece on the passages, in lower case, as all-MiniLM has it."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(passages, vocab_size=VOCABULARY, show_progress=False)
    tokenizer.save_model(str(folder))
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=LENGTH)


def pack(tokenizer: BertTokenizerFast, passages: list[str], seed: int) -> Dataset:
    """Join the tokens of all passages, in a random order, and cut them into sequences of one length."""
    order = np.random.default_rng(seed).permutation(len(passages))
    parts = []
    for start in range(0, len(order), 10_000):
        encoded = tokenizer([passages[at] for at in order[start : start + 10_000]], add_special_tokens=False)
        parts += [token for one in encoded["input_ids"] for token in (*one, tokenizer.sep_token_id)]
    body = LENGTH - 1
    tokens = np.asarray(parts[: len(parts) // body * body], dtype=np.int64).reshape(-1, body)
    return Dataset.from_dict({"input_ids": np.insert(tokens, 0, tokenizer.cls_token_id, axis=1)}).with_format("torch")


def build_model(vocabulary: int, layers: int, dimensions: int) -> BertForMaskedLM:
    """Make a BERT with random weights."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=dimensions,
        num_hidden_layers=layers,
        num_attention_heads=dimensions // 64,
        intermediate_size=4 * dimensions,
        max_position_embeddings=2 * LENGTH,
    )
    return BertForMaskedLM(config)


def train(
    model: BertForMaskedLM, tokenizer: BertTokenizerFast, packed: Dataset, arguments: argparse.Namespace
) -> dict[str, float]:
    """Train a model to fill in what is hidden, and return the losses."""
    held_out = range(0, len(packed), _HELD_OUT)
    left = packed.select(sorted(set(range(len(packed))) - set(held_out)))
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            warmup_steps=0.1,
            weight_decay=0.01,
            bf16=True,
            use_cpu=not torch.accelerator.is_available(),
            dataloader_num_workers=arguments.workers,
            dataloader_persistent_workers=arguments.workers > 0,
            logging_steps=200,
            save_strategy="no",
            report_to="none",
            seed=arguments.seed,
        )
        collator = DataCollatorForLanguageModeling(tokenizer)
        trainer = Trainer(
            model, options, data_collator=collator, train_dataset=left, eval_dataset=packed.select(held_out)
        )
        return dict(trainer.train().metrics | trainer.evaluate() | {"sequences": len(left)})


def main() -> None:
    """Train tokenizer and model, and save them with the loss on held-out sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=12_000, help="of each source")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    arguments.output.mkdir(parents=True, exist_ok=True)
    set_seed(arguments.seed)
    passages = read_passages(arguments.data, arguments.rows)
    tokenizer = train_tokenizer(passages, arguments.output)
    packed = pack(tokenizer, passages, arguments.seed)
    model = build_model(len(tokenizer), arguments.layers, arguments.dimensions)
    report = train(model, tokenizer, packed, arguments)
    model.bert.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    module = Transformer(str(arguments.output), max_seq_length=LENGTH)
    SentenceTransformer(modules=[module, Pooling(arguments.dimensions)], device="cpu").save(str(arguments.output))
    tokens = arguments.steps * arguments.batch_size * LENGTH
    about = report | {"tokens_seen": tokens, "device": str(model.device)}
    (arguments.output / "pretraining.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
