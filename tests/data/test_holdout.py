from __future__ import annotations

import logging

import pytest
from datasets import Dataset

from st_cluster_batches.data.holdout import hold_out


@pytest.fixture
def pairs() -> Dataset:
    """Two sources of 100 rows. Rows 2i and 2i + 1 share a query; the last passage of a is the first of b."""
    rows = [
        {"query": f"{source} question {at // 2}", "passage": f"{source} answer {at}", "source": source}
        for source in "ab"
        for at in range(100)
    ]
    rows[100]["passage"] = rows[99]["passage"]
    return Dataset.from_list(rows)


def test_no_held_out_query_and_none_of_its_answers_is_left(pairs: Dataset) -> None:
    left, collections = hold_out(pairs, 5, 40)
    assert set(collections) == {"a", "b"}
    for collection in collections.values():
        assert len(collection.queries) == 5
        assert not set(collection.queries.values()) & set(left["query"])
        answers = {collection.corpus[document][1] for judged in collection.qrels.values() for document in judged}
        assert not answers & set(left["passage"])


def test_all_answers_of_a_query_are_relevant_and_distractors_are_of_the_same_source(pairs: Dataset) -> None:
    answers: dict[str, set[str]] = {}
    for row in pairs:
        answers.setdefault(row["query"], set()).add(row["passage"])
    for name, collection in hold_out(pairs, 5, 40)[1].items():
        assert 30 < len(collection.corpus) <= 40
        for key, query in collection.queries.items():
            assert {collection.corpus[document][1] for document in collection.qrels[key]} == answers[query]
        assert all(text.startswith(name) or text == "a answer 99" for _, text in collection.corpus.values())


@pytest.mark.parametrize(("n_rows", "is_a_warning"), [(200, True), (2000, False)])
def test_rows_whose_negative_is_a_held_out_answer_are_left_out_and_counted(
    n_rows: int, is_a_warning: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"query": f"q{at}", "positive": f"p{at}", "negative": f"P{(at + 7) % n_rows} ", "harder": f"n{at}"}
        for at in range(n_rows)
    ]
    with caplog.at_level(logging.INFO):
        left, collections = hold_out(Dataset.from_list(rows), 10, 40)
    (collection,) = collections.values()
    answers = {collection.corpus[document][1] for judged in collection.qrels.values() for document in judged}
    assert not answers & {text.strip().lower() for name in left.column_names for text in left[name]}
    n_lost = n_rows - 10 - len(left)
    assert 0 < n_lost <= 10
    (record,) = caplog.records
    assert f"{n_lost} of {n_rows} rows are left out" in record.getMessage()
    assert (record.levelno == logging.WARNING) == is_a_warning


def test_groups_that_reach_into_another_source_leave_it_too() -> None:
    rows = [{"query": f"q{at}", "passage": f"p{at % 20}", "source": "ab"[at // 20]} for at in range(40)]
    left, collections = hold_out(Dataset.from_list(rows), 2, 10)
    answers = {text for one in collections.values() for judged in one.qrels.values() for key in judged
               for text in [one.corpus[key][1]]}  # fmt: skip
    assert answers and not answers & set(left["passage"])


def test_the_choice_is_a_function_of_the_seed(pairs: Dataset) -> None:
    first, again, other = (hold_out(pairs, 5, 40, seed)[1] for seed in (0, 0, 1))
    assert first == again and first != other


def test_at_most_a_tenth_of_a_source_is_asked_for(pairs: Dataset) -> None:
    assert len(hold_out(pairs, 1000, 1000)[1]["a"].queries) <= 10


def test_few_answers_to_many_questions_leave_a_source_its_rows(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"query": f"question {at}", "passage": f"intent {at % 77}"} for at in range(1000)]
    left, collections = hold_out(Dataset.from_list(rows), 100, 1000)
    assert len(left) >= 900
    assert 50 <= len(collections["held_out"].queries) <= 100
    assert "of the 100 asked for" in caplog.text
    one = [{"query": f"question {at}", "passage": "yes"} for at in range(100)]
    assert len(hold_out(Dataset.from_list(one), 10, 100)[0]) == 100, "its only group is all of it"


def test_a_query_with_many_answers_takes_no_place_that_others_need() -> None:
    rows = [{"query": f"q{max(at, 95)}", "passage": f"p{at}"} for at in range(1000)]
    found = [len(hold_out(Dataset.from_list(rows), 80, 1000, seed)[1]["held_out"].queries) for seed in range(20)]
    assert min(found) > 40 and found.count(80) >= 10


def test_queries_alone_cannot_be_held_out(pairs: Dataset) -> None:
    with pytest.raises(ValueError, match="two columns of text"):
        hold_out(pairs.select_columns(["query", "source"]), 5, 10)


def test_a_missing_text_is_named(pairs: Dataset) -> None:
    rows = [*pairs.to_list(), {"query": "q", "passage": "", "source": "a"}]
    with pytest.raises(ValueError, match="Column 'passage' has no text in row 200"):
        hold_out(Dataset.from_list(rows), 5, 40)


def test_texts_that_count_as_equal_are_one_query_and_one_document() -> None:
    rows = [
        {"query": f"{word} {at}", "passage": f"{answer} {at // 3}"}
        for at in range(300)
        for word, answer in (("What", "Since"), ("what", "since"), ("WHAT ", "Because"))
    ]
    (collection,) = hold_out(Dataset.from_list(rows), 20, 100)[1].values()
    assert len(collection.queries) == len({text.lower().strip() for text in collection.queries.values()}) >= 18
    assert len(collection.corpus) == len({text.lower() for _, text in collection.corpus.values()})
    answers = [{collection.corpus[one][1].split()[0].lower() for one in own} for own in collection.qrels.values()]
    assert answers == [{"since", "because"}] * len(collection.queries)
