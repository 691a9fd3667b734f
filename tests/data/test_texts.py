from __future__ import annotations

from datasets import Dataset

from st_cluster_batches.data.texts import check_texts, hash_rows


def test_the_hash_is_of_the_texts_in_their_order() -> None:
    data = Dataset.from_dict({"q": ["ab", "c"], "p": ["x", "y"]})

    def digest(one: Dataset) -> dict[str, str]:
        return check_texts(one, ("q", "p"))

    reference = digest(data)
    assert reference == digest(data.with_format("numpy")) == digest(data.select([0, 1]))
    assert reference == digest(Dataset.from_list([*[{"q": "-", "p": "-"}], *data.to_list()]).select([1, 2]))
    assert reference != digest(data.select([1, 0]))
    assert reference != digest(Dataset.from_dict({"q": ["a", "bc"], "p": ["x", "y"]}))
    assert reference["q"] == digest(data.remove_columns("p").add_column("p", ["u", "v"]))["q"], "each its own"


def test_row_keys_are_of_the_texts_as_they_are() -> None:
    def keys(rows: list[tuple[str, str]]) -> list[int]:
        data = Dataset.from_dict({"q": [row[0] for row in rows], "p": [row[1] for row in rows]})
        return hash_rows(data.with_format("arrow")[:], ["q", "p"]).tolist()

    rows = [("a", "b"), ("A", "b"), ("a ", "b"), ("ab", ""), ("", "ab"), ("b", "a"), ("é", "b")]
    assert len(set(keys(rows))) == len(rows)
    assert keys(rows[::-1])[::-1] == keys(rows), "wherever the row lies"
