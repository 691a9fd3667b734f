"""Static token embeddings from nothing but texts: a start where no pretrained weights are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from st_cluster_batches.training.models import build_static_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

_VOCABULARY = 16_000
_DIMENSIONS = 256


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Train a lower-casing tokenizer on texts by byte-pair encoding.

    Not WordPiece: the `tokenizers` library numbers its `##` pieces in hash order, so no two trainings would agree.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace()])
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def fit_encoder(tokenizer: Tokenizer, texts: list[str]) -> SentenceTransformer:
    """Fit static token embeddings by latent semantic analysis: TF-IDF, then a truncated SVD (scikit-learn).

    Unsupervised, and in seconds: a start for those who have no pretrained weights at hand.

    Args:
        tokenizer: Splits texts into the tokens to be embedded.
        texts: The documents of the analysis.

    Returns:
        A model whose embedding of a text is the mean of its tokens' vectors.
    """
    from scipy.sparse import csr_array
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    ends = np.cumsum([0, *map(len, tokens)])
    counts = csr_array(
        (np.ones(ends[-1]), np.concatenate(tokens), ends), shape=(len(texts), tokenizer.get_vocab_size())
    )
    counts.sum_duplicates()
    tfidf = TfidfTransformer(sublinear_tf=True)
    svd = TruncatedSVD(_DIMENSIONS, random_state=0).fit(tfidf.fit_transform(counts))
    weights = (tfidf.idf_[:, None] * svd.components_.T).astype(np.float32)
    return build_static_model(tokenizer, weights)
