from __future__ import annotations

import pytest

from st_cluster_batches.demo.docstrings import Docstring, split_docstrings


@pytest.fixture
def docstrings() -> list[Docstring]:
    """Six packages of 250 docstrings, of 40 modules each."""
    return [
        Docstring(f"p{package}", f"p{package}/m{at % 40}", f"Summary {at} of p{package}", f"Rest {at} of p{package}")
        for package in range(6)
        for at in range(250)
    ]


def test_split_keeps_held_out_modules_and_packages_out_of_training(docstrings: list[Docstring]) -> None:
    pairs, collections = split_docstrings(docstrings, None)
    trained = set(pairs["query"])
    for collection in collections.values():
        assert collection.queries and not trained & set(collection.queries.values())
    assert not set(pairs["source"]) & {text.split()[-1] for text in collections["unseen_packages"].queries.values()}
    held_out_modules = {one.module for one in docstrings if one.is_held_out}
    assert len(trained) + len(collections["same_modules"].queries) == sum(
        one.package in set(pairs["source"]) and one.module not in held_out_modules for one in docstrings
    )
    assert len(split_docstrings(docstrings, 100)[0]) == 100


def test_unseen_docstrings_are_all_ranked_and_not_all_asked_for() -> None:
    many = [Docstring(f"p{at % 6}", f"p{at % 6}/m{at % 24}", f"Summary {at}", f"Rest {at}") for at in range(30_000)]
    _, collections = split_docstrings(many, None)
    for name in ("unseen_modules", "unseen_packages"):
        one = collections[name]
        assert len(one.queries) == 1_000 and len(one.corpus) > 1_000, name
        assert all(
            one.corpus[document][1].split()[1] == one.queries[query].split()[1]
            for query, answers in one.qrels.items()
            for document in answers
        ), name


def test_split_says_what_it_found_when_there_is_too_little(docstrings: list[Docstring]) -> None:
    with pytest.raises(ValueError, match=r"Only 2 installed packages .*'p0', 'p1'"):
        split_docstrings(docstrings[:500], None)
