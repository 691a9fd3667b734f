from __future__ import annotations

from typing import Any

import pytest
from datasets import ClassLabel, Dataset

from st_cluster_batches.data.forms import keep_positive
from st_cluster_batches.target_values import read_targets

NLI = ["entailment", "neutral", "contradiction"]


def make_rows(values: list[Any], column: str = "label") -> Dataset:
    texts = [f"text {at}" for at in range(len(values))]
    return Dataset.from_dict({"query": texts, "passage": texts, column: values})


def make_classes(names: list[str]) -> Dataset:
    return make_rows([0, 1, 2, 0]).cast_column("label", ClassLabel(names=names))


@pytest.mark.parametrize(
    ("rows", "told", "label"),
    [
        (make_rows([0, 1, 1]), "'label' (0 in 1 rows, 1 in 2 rows)", "1"),
        (make_rows([False, True]), "'label' (False in 1 rows, True in 1 rows)", "1"),
        (make_rows([1.0, 0.0, None]), "'label' (0.0 in 1 rows, 1.0 in 1 rows)", "1"),
        (make_rows([0, 1, 2]), "'label' (0 in 1 rows, 1 in 1 rows, 2 in 1 rows)", "LABEL"),
        (make_rows([0, 0]), "'label' (0 in 2 rows)", "LABEL"),
        (make_classes(NLI), "(0 (entailment) in 2 rows, 1 (neutral) in 1 rows, 2 (contradiction) in 1 rows)", "LABEL"),
        (make_rows(NLI), "'label' ('contradiction' in 1 rows, 'entailment' in 1 rows, 'neutral' in 1 rows)", "LABEL"),
    ],
)
def test_the_values_that_are_there_are_told_and_the_label_of_positives_only_where_it_is_known(
    rows: Dataset, told: str, label: str
) -> None:
    (found,) = read_targets(rows, ["label"])
    assert told in str(found) and found.label == label
    assert found.call == f"dataset.filter(lambda row: row['label'] == {label}).remove_columns('label')"


@pytest.mark.parametrize(("name", "value"), [("score", 0.5), ("scores", [0.5])])
def test_scores_are_kept_from_a_least_one_on(name: str, value: Any) -> None:
    values = [[at / 7] if isinstance(value, list) else at / 7 for at in range(20)]
    (found,) = read_targets(make_rows(values, name), [name])
    kept = eval(found.call, {"dataset": make_rows(values, name), "LEAST": 1.0})
    assert len(kept) == 12 and kept.column_names == ["query", "passage"]


@pytest.mark.parametrize("label", ["entailment", "0"])
def test_classes_are_chosen_by_name_or_by_number(label: str) -> None:
    kept = keep_positive(make_classes(NLI), label, "the file")
    assert kept["query"][:] == ["text 0", "text 3"]
    with pytest.raises(ValueError, match=r"no row has the label 'entails' in 'label' \(0 \(entailment\) in 2 rows"):
        keep_positive(make_classes(NLI), "entails", "the file")
