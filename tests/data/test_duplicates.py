from __future__ import annotations

import unicodedata

from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from st_cluster_batches.data.duplicates import group_equal, hash_column, hash_folded

WORDS = st.sampled_from(["a", "A", " a ", "b", "c  d", "c\td", "é", "e\u0301", "ﬁ", "fi", "e", "f", "g"])


def normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def group_by_definition(rows: list[tuple[str, str]]) -> list[int]:
    """Link rows pair by pair, and spread the smallest row number of each group."""
    folded = [tuple(map(normalise, row)) for row in rows]
    group = list(range(len(rows)))
    for _ in rows:
        for at, one in enumerate(folded):
            for to, other in enumerate(folded):
                if one[0] == other[0] or one[1] == other[1]:
                    group[at] = group[to] = min(group[at], group[to])
    return group


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=9))
def test_groups_are_the_connected_components_of_shared_texts(rows: list[tuple[str, str]]) -> None:
    data = Dataset.from_dict({"query": [row[0] for row in rows], "passage": [row[1] for row in rows]})
    groups = group_equal(data, ["query", "passage"]).tolist()
    expected = group_by_definition(rows)
    assert [[a == b for b in groups] for a in groups] == [[a == b for b in expected] for a in expected]
    assert set(groups) == set(range(len(set(groups))))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_texts_hash_alike_one_by_one_and_as_a_column(texts: list[str]) -> None:
    # Each twice, once as another text might have it, so that there is something to find.
    texts = [*texts, *(f" {text.swapcase().swapcase()}\n" for text in texts)]
    data = Dataset.from_dict({"q": texts})
    assert hash_column(data, "q").tolist() == hash_folded(texts).tolist()
