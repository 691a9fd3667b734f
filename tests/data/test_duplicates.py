from __future__ import annotations

import unicodedata

from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from st_cluster_batches.data.duplicates import group_false_negatives, hash_texts

WORDS = st.sampled_from(["a", "A", " a ", "b", "c  d", "c\td", "é", "e\u0301", "ﬁ", "fi", "e", "f", "g"])


def normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def group_by_definition(rows: list[tuple[str, ...]]) -> list[int]:
    """Link rows pair by pair, and spread the smallest row number of each group."""
    folded = [tuple(map(normalise, row)) for row in rows]
    group = list(range(len(rows)))

    def are_linked(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
        return one[0] == other[0] or one[1] == other[1] or one[1] in other[2:] or other[1] in one[2:]

    for _ in rows:
        for at, one in enumerate(folded):
            for to, other in enumerate(folded):
                if are_linked(one, other):
                    group[at] = group[to] = min(group[at], group[to])
    return group


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2).flatmap(lambda n: st.lists(st.tuples(*[WORDS] * (2 + n)), min_size=1, max_size=9)))
def test_groups_are_the_connected_components_of_shared_texts(rows: list[tuple[str, ...]]) -> None:
    names = ["query", "passage", "n1", "n2"][: len(rows[0])]
    data = Dataset.from_dict({name: [row[at] for row in rows] for at, name in enumerate(names)})
    groups = group_false_negatives(data, names, show_progress_bar=False).tolist()
    expected = group_by_definition(rows)
    assert [[a == b for b in groups] for a in groups] == [[a == b for b in expected] for a in expected]
    assert set(groups) == set(range(len(set(groups))))


@settings(deadline=None)
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_texts_hash_alike_one_by_one_and_as_a_column(texts: list[str]) -> None:
    # Each twice, once as another text might have it, so that there is something to find.
    texts = [*texts, *(f" {text.swapcase().swapcase()}\n" for text in texts)]
    data = Dataset.from_dict({"q": texts})
    groups, hashes = group_false_negatives(data, ["q"]), hash_texts(texts)
    assert [[a == b for b in groups] for a in groups] == [[a == b for b in hashes] for a in hashes]


def test_a_text_that_only_negatives_share_links_nothing() -> None:
    data = Dataset.from_dict({"q": ["1", "2", "3"], "p": ["x", "y", "z"], "n": ["same", "same", "x"]})
    assert group_false_negatives(data, ["q", "p", "n"]).tolist() == [0, 1, 0]


def test_a_query_alone_groups_too() -> None:
    assert group_false_negatives(Dataset.from_dict({"q": ["a", "b", "A"]}), ["q"]).tolist() == [0, 1, 0]
