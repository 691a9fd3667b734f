from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from examples import make_pairs, make_static_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace

from st_cluster_batches import attach_clusters, inspect
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.vectors import PairVectors, take_by_key
from st_cluster_batches.data.pairs import PairOptions, Pairs
from st_cluster_batches.data.texts import hash_rows
from st_cluster_batches.storage import chunks
from st_cluster_batches.storage.shared_cache import SharedCache


class Counter:
    """A model that counts the texts that it embeds, side by side."""

    def __init__(self) -> None:
        self.model = make_static_model()
        self.texts = {"query": 0, "document": 0}
        for side in self.texts:
            self._watch(side)

    def _watch(self, side: str) -> None:
        encode = getattr(self.model, f"encode_{side}")

        def watched(texts: list[str], **options: Any) -> Any:
            self.texts[side] += len(texts)
            return encode(texts, **options)

        setattr(self.model, f"encode_{side}", watched)


@pytest.fixture
def counter() -> Counter:
    return Counter()


def open_vectors(dataset: Dataset, model: SentenceTransformer, folder: Path) -> PairVectors:
    cache = SharedCache(folder, show_progress_bar=False)
    return PairVectors(Pairs.prepare("", dataset, PairOptions(), False), Encoder(model, folder), cache)


def test_rows_are_read_by_chunk_and_by_number_and_embedded_once(tmp_path: Path, counter: Counter) -> None:
    pairs = make_pairs(300)
    expected = make_static_model().encode_query(pairs["query"][:], normalize_embeddings=True)
    for _ in range(2):
        vectors = open_vectors(pairs, counter.model, tmp_path)
        assert np.allclose(vectors.read("query", 0), expected, atol=1e-3)
        rows = np.array([0, 17, 299])
        assert np.allclose(vectors.take("query", rows), expected[rows], atol=1e-3)
        assert vectors.take("both", rows).shape == (3, 2 * expected.shape[1])
    assert counter.texts == {"query": 300, "document": 300}


def test_another_column_of_negatives_embeds_no_query_again(tmp_path: Path, counter: Counter) -> None:
    pairs = make_pairs(100)
    open_vectors(pairs, counter.model, tmp_path).embed("query")
    triplets = pairs.add_column("negative", [f"keel {at}" for at in range(100)])
    open_vectors(triplets, counter.model, tmp_path).embed("query")
    assert counter.texts["query"] == 100


def test_rows_of_other_datasets_find_their_vectors_and_the_others_are_known(tmp_path: Path, counter: Counter) -> None:
    first, second, new = make_pairs(200), make_pairs(100, seed=1), make_pairs(10, seed=2)
    for pairs in (first, second):
        open_vectors(pairs, counter.model, tmp_path).embed("query")
    joined = concatenate_datasets([second.shuffle(seed=0).select(range(50)), new, first.select(range(150, 200)), new])
    table = joined.with_format("arrow")[:]
    cache, encoder = SharedCache(tmp_path, show_progress_bar=False), Encoder(counter.model, tmp_path)
    queries = joined["query"][:]
    found = take_by_key(encoder, cache, hash_rows(table, ["query", "passage"]), {"query": queries}, "")["query"]
    assert np.allclose(found, make_static_model().encode_query(queries, normalize_embeddings=True), atol=1e-3)
    assert counter.texts["query"] == 200 + 100 + 20, "only those of no dataset are embedded"


def test_how_many_vectors_are_there_already_is_told_by_side(
    tmp_path: Path, counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = make_pairs(40)
    open_vectors(pairs, counter.model, tmp_path).embed("query")
    with caplog.at_level("INFO"):
        open_vectors(concatenate_datasets([pairs, make_pairs(10, seed=1)]), counter.model, tmp_path).embed("query")
        open_vectors(pairs.select(range(30)), counter.model, tmp_path).embed("query")
    assert [one for one in caplog.messages if "in the cache" in one] == [
        "The vectors of 40 of 50 queries (column 'query') are in the cache; the other 10 are embedded",
        "The vectors of 30 of 30 queries (column 'query') are in the cache",
    ]


def test_equal_rows_find_the_same_vector(tmp_path: Path, counter: Counter) -> None:
    pairs = make_pairs(20)
    twice = concatenate_datasets([pairs, pairs])
    open_vectors(pairs, counter.model, tmp_path).embed("passage")
    keys = hash_rows(twice.with_format("arrow")[:], ["query", "passage"])
    cache, encoder = SharedCache(tmp_path, show_progress_bar=False), Encoder(counter.model, tmp_path)
    found = take_by_key(encoder, cache, keys, {"passage": twice["passage"][:]}, "")["passage"]
    assert np.array_equal(found[:20], found[20:]) and counter.texts["document"] == 20


def test_inspecting_embeds_nothing_that_attaching_has_embedded(tmp_path: Path, counter: Counter) -> None:
    options = {"cache_dir": tmp_path, "show_progress_bar": False}
    labelled = attach_clusters(make_pairs(300), counter.model, n_clusters=3, key="both", **options)
    counter.texts.update(query=0, document=0)
    inspect(labelled.shuffle(seed=1).select(range(250)), counter.model, batch_size=16, **options)
    assert counter.texts == {"query": 0, "document": 0}


def test_texts_without_a_token_are_found_before_the_others_are_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer(BPE({letter: at for at, letter in enumerate(ascii_lowercase)}, []))
    tokenizer.pre_tokenizer = Whitespace()
    weights = torch.randn(26, 8, generator=torch.Generator().manual_seed(0))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    embedded: list[int] = []
    encode = SentenceTransformer.encode_query

    def count(self: SentenceTransformer, texts: list[str], **options: object) -> object:
        embedded.append(len(texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(SentenceTransformer, "encode_query", count)
    texts = ["soup salt"] * 500 + ["?!", "🙂", "..."]
    with pytest.raises(ValueError, match=r"'query' has no token .* in 3 rows: 500, 501, 502. Row 500 is '\?!'"):
        attach_clusters(Dataset.from_dict({"query": texts}), model, n_clusters=2, cache_dir=tmp_path)
    assert embedded == [3]


def test_to_remove_the_row_that_an_encoder_does_not_know_embeds_no_other_again(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 32)
    counter.model[0].embedding.weight.data[0] = 0  # of words that it does not know
    pairs = make_pairs(200)
    unknown = Dataset.from_list([{"query": "foo bar", "passage": "soup"}])
    spoilt = concatenate_datasets([pairs.select(range(150)), unknown, pairs.select(range(150, 200))])
    with pytest.raises(ValueError, match=r"vector of row 150 is zero.*'foo bar'"):
        open_vectors(spoilt, counter.model, tmp_path).embed("query")
    before = counter.texts["query"]
    mended = open_vectors(pairs, counter.model, tmp_path)
    expected = counter.model.encode(pairs["query"][:], normalize_embeddings=True)
    assert np.allclose(mended.take("query", np.arange(200)), expected, atol=1e-3)
    assert counter.texts["query"] - before == 200 - 128, "four chunks were kept"
    before = counter.texts["query"]
    more = concatenate_datasets([pairs.shuffle(seed=1), make_pairs(10, seed=7)])
    vectors = open_vectors(more, counter.model, tmp_path)
    expected = counter.model.encode(more["query"][:], normalize_embeddings=True)
    assert np.allclose(vectors.take("query", np.arange(210)), expected, atol=1e-3)
    assert counter.texts["query"] - before == 10
    with pytest.raises(ValueError, match="vector of row 7 is zero"):
        strange = concatenate_datasets([pairs.select(range(7)), unknown, pairs.select(range(7, 30))])
        open_vectors(strange, counter.model, tmp_path).embed("query")


def test_a_damaged_chunk_of_another_dataset_is_not_taken_over(
    tmp_path: Path, counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 32)
    pairs = make_pairs(64)
    open_vectors(pairs, counter.model, tmp_path).embed("query")
    (folder,) = tmp_path.glob("vectors-*")
    damaged = min(folder.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"damaged!")
    before = counter.texts["query"]
    open_vectors(pairs.select(range(63)), counter.model, tmp_path).embed("query")
    assert counter.texts["query"] - before == 32
