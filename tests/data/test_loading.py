from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from examples import label_pairs, make_pairs

from st_cluster_batches.__main__ import main
from st_cluster_batches.data.loading import Selection, cap_sources, load_data, load_training_data
from st_cluster_batches.row_keys import certify_keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_pairs(30, 0).to_parquet(str(tmp_path / "a.parquet"))
    make_pairs(20, 1).to_parquet(str(tmp_path / "b.parquet"))
    make_pairs(10, 2).save_to_disk(str(tmp_path / "saved"))
    return tmp_path


@pytest.mark.parametrize(("name", "n_rows"), [("a.parquet", 30), ("", 50), ("saved", 10)])
def test_files_folders_and_saved_datasets_load(folder: Path, name: str, n_rows: int) -> None:
    assert len(load_data(folder / name)) == n_rows


def test_joined_data_names_the_source_of_every_row(folder: Path) -> None:
    joined = load_training_data(["a.parquet", "b.parquet", "saved"], str(folder))
    assert joined["source"][:] == ["a"] * 30 + ["b"] * 20 + ["saved"] * 10
    assert joined.column_names == ["query", "passage", "source"]


def test_large_sources_are_capped_at_random_and_reproducibly(folder: Path) -> None:
    joined = load_training_data(["a.parquet", "b.parquet"], str(folder))
    capped = cap_sources(joined, 12, 0, has_sources=True)
    assert [capped["source"][:].count(name) for name in "ab"] == [12, 12]
    again = cap_sources(joined, 12, 0, has_sources=True)
    assert capped["query"][:] == again["query"][:] != make_pairs(30, 0)["query"][:12]


def test_labels_that_every_place_has_are_kept_and_others_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for at, name in enumerate("ab"):
        keys = certify_keys(np.arange(1, 21, dtype=np.uint64) << np.uint64(8))
        label_pairs(make_pairs(20, at)).add_column("label", keys).save_to_disk(str(tmp_path / name))
    make_pairs(10, 2).save_to_disk(str(tmp_path / "plain"))
    labels = {"cluster", "false_negative_keys", "label"}
    assert labels < set(load_training_data(["a", "b"], str(tmp_path)).column_names)
    assert not [one for one in caplog.messages if "are dropped" in one]
    joined = load_training_data(["a", "b", "plain"], str(tmp_path))
    assert joined.column_names == ["query", "passage", "source"] and len(joined) == 50
    line = next(one for one in caplog.messages if "are dropped" in one)
    assert "labels of 2 of 3 places" in line and "of 40 rows" in line and "attach PLACE OUT" in line


@pytest.mark.parametrize("name", ["missing.parquet", "no/such-dataset"])
def test_missing_data_is_named(folder: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        load_data(name)
    with pytest.raises(FileNotFoundError, match=name):
        load_training_data(["a.parquet", name], str(folder))


def test_other_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is no file of rows"):
        load_data(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither a save_to_disk dataset nor files"):
        load_data(tmp_path / "empty")


def test_a_file_without_rows_is_left_out_of_a_folder_and_refused_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_pairs(5).select([]).to_parquet(str(folder / "part.parquet"))
    assert len(load_data(folder)) == 50
    assert "1 files without rows are left out, such as part.parquet" in caplog.text
    with pytest.raises(ValueError, match="is empty; remove it, or fetch it again"):
        load_data(folder / "part.parquet")


def test_data_that_does_not_fit_together_is_refused(folder: Path) -> None:
    Dataset.from_dict({"question": ["x"], "answer": ["y"]}).to_parquet(str(folder / "c.parquet"))
    with pytest.raises(ValueError, match=r"c\.parquet has a column 'answer' and .*a\.parquet has not"):
        load_training_data(["a.parquet", "c.parquet"], str(folder))
    DatasetDict({"x": make_pairs(5), "y": make_pairs(5)}).save_to_disk(str(folder / "several"))
    with pytest.raises(ValueError, match="holds several datasets"):
        load_training_data(["a.parquet", "several"], str(folder))


ROWS = [{"query": f"où est {at}", "passage": f'ici, "{at}"'} for at in range(4)]


def write_kind(path: Path) -> Path:
    """Write the rows as the ending of the name says."""
    frame = pd.DataFrame(ROWS)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind in ("csv", "tsv"):
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    elif kind in ("jsonl", "json"):
        frame.to_json(path, orient="records", lines=kind == "jsonl", force_ascii=False)
    else:
        table = pa.Table.from_pylist(ROWS)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.arrow"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_file_reads_the_same(tmp_path: Path, name: str, packed: bool) -> None:
    path = write_kind(tmp_path / name)
    if packed:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
        path = tmp_path / f"{name}.gz"
    assert load_data(path).to_list() == ROWS
    assert load_data(tmp_path).to_list() == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_a_byte_order_mark_is_part_of_no_column(tmp_path: Path, name: str) -> None:
    path = write_kind(tmp_path / name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_data(path).to_list() == ROWS


def test_kinds_are_mixed_and_each_file_is_a_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("web.parquet", "news.jsonl", "mail.csv.gz"):
        write_kind(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    loaded = load_data(tmp_path)
    assert loaded["source"][:] == ["mail"] * 4 + ["news"] * 4 + ["web"] * 4
    assert "1 other files are ignored, such as notes.txt" in caplog.text


def test_a_source_column_that_one_file_lacks_is_filled_with_its_name(tmp_path: Path) -> None:
    write_kind(tmp_path / "web.parquet")
    pd.DataFrame([{"source": "forum", **row} for row in ROWS]).to_json(
        tmp_path / "x.jsonl", orient="records", lines=True
    )
    loaded = load_data(tmp_path)
    assert loaded["source"][:] == ["web"] * 4 + ["forum"] * 4
    assert loaded.column_names == ["query", "passage", "source"]


def test_files_get_no_source_where_none_is_wanted(tmp_path: Path, saved_model: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "labelled"
    data.mkdir()
    for at, name in enumerate(("web", "news")):
        make_pairs(30, seed=at).to_parquet(data / f"{name}.parquet")
    words = ["--encoder", str(saved_model), "--n_clusters", "2", "--source_column", "none"]
    assert main(["attach", str(data), str(out), *words]) == 0
    assert load_from_disk(str(out)).column_names == ["query", "passage", "cluster", "false_negative_keys"]


def test_files_get_no_source_where_a_column_of_another_name_tells_it(tmp_path: Path, saved_model: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "labelled"
    data.mkdir()
    for at, name in enumerate(("web", "news")):
        make_pairs(30, seed=at).add_column("site", ["a", "b"] * 15).to_parquet(data / f"{name}.parquet")
    words = ["--encoder", str(saved_model), "--n_clusters", "2", "--source_column", "site"]
    assert main(["attach", str(data), str(out), *words]) == 0
    assert load_from_disk(str(out))["source"][:] == ["a", "b"] * 30


def test_shards_are_no_sources(tmp_path: Path) -> None:
    for at in range(2):
        write_kind(tmp_path / f"pairs-{at:05d}-of-00002.parquet")
    assert load_data(tmp_path).column_names == ["query", "passage"]


@pytest.mark.parametrize("text", ["NA", "null", "None", "nan"])
def test_words_that_mean_nothing_elsewhere_are_texts(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(f"query,passage\n{text},b\nc,d\n", encoding="utf-8")
    assert load_data(tmp_path / "a.csv")["query"][:] == [text, "c"]


@pytest.mark.parametrize("like_a_number", ["0000", "0.50", "TRUE", "1e2", "12345678901234567890"])
@pytest.mark.parametrize("is_first", [False, True])
def test_texts_that_look_like_numbers_stay_as_the_file_has_them(
    tmp_path: Path, like_a_number: str, is_first: bool
) -> None:
    answers = ["a word"] * 11_000 + [like_a_number] * 11_000  # more than pandas guesses the type of at once
    answers = answers[::-1] if is_first else answers
    lines = "".join(f"what is it\t{answer}\t{answer}\n" for answer in answers)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(f"query\tanswer\tother\n{lines}".encode(), mtime=0))
    rows = load_data(tmp_path / "a.tsv.gz")
    assert rows["answer"][:] == answers and rows["other"][:] == answers


def test_columns_of_numbers_are_numbers_where_that_changes_no_text(tmp_path: Path) -> None:
    header = "query,answer,score,label,topic,is_duplicate,zip,price"
    (tmp_path / "a.csv").write_text(f"{header}\na,1,0.50,01,-7,True,007,0.50\nb,2,1,2,12,False,70,1.5\n")
    rows = load_data(tmp_path / "a.csv")
    assert rows.column_names == header.split(",")
    assert rows.to_list() == [
        dict(zip(rows.column_names, ["a", "1", 0.5, 1, -7, True, "007", "0.50"], strict=True)),
        dict(zip(rows.column_names, ["b", "2", 1.0, 2, 12, False, "70", "1.5"], strict=True)),
    ]


def test_an_index_that_the_line_of_names_leaves_out_is_a_column_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("query,passage\n01,a,1\n2,b,x\n")
    assert load_data(tmp_path / "a.csv").to_list() == [
        {"query": "a", "passage": "1", "__index_level_0__": "01"},
        {"query": "b", "passage": "x", "__index_level_0__": "2"},
    ]


ROWS_BELOW = ["boil the onion first,an onion wants ten minutes", "where is the mast,amidships of the hull"]


@pytest.mark.parametrize("first", ["roast the bread,bread wants an oven", "what is it?,a sail it is", ROWS_BELOW[1]])
def test_a_table_whose_first_line_is_a_row_is_refused_and_loses_none(tmp_path: Path, first: str) -> None:
    (tmp_path / "rows.csv").write_text("\n".join([first, *ROWS_BELOW]) + "\n")
    with pytest.raises(ValueError, match="looks like a row and not like names of columns"):
        load_data(tmp_path / "rows.csv")


@pytest.mark.parametrize("header", ["Question Text,Best Answer", "frage,antwort", "a,b", "0,1", "title,body_id"])
def test_odd_names_of_columns_are_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str) -> None:
    (tmp_path / "rows.csv").write_text("\n".join([header, *ROWS_BELOW]) + "\n")
    assert load_data(tmp_path / "rows.csv").column_names == header.split(",")
    assert "looks like a row" not in caplog.text and "is taken for names" not in caplog.text


@pytest.mark.parametrize("lines", [["Haus,house", "Baum,tree", "Wald,wood"], ["what is it?,a sail", *ROWS_BELOW]])
def test_a_first_line_that_may_be_a_row_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str]
) -> None:
    (tmp_path / "words.csv").write_text("\n".join(lines) + "\n")
    assert len(load_data(tmp_path / "words.csv")) == 2
    assert "is taken for names of columns, though it reads like a row: the 2 lines below" in caplog.text


def test_a_tsv_with_lone_quotation_marks_keeps_all_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('query\tpassage\n"a" word\tb\n"c\td\n', encoding="utf-8")
    assert load_data(tmp_path / "a.tsv").to_list() == [
        {"query": '"a" word', "passage": "b"},
        {"query": '"c', "passage": "d"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"query": "x"}\n{"query": "y', "line 2 is no JSON"),
        ("a.csv", "query,passage\nx,y\nz,caf\xe9\n".encode("latin-1"), "line 3 is not UTF-8"),
        ("a.jsonl", '{"query": "é"}\n'.encode("latin-1"), "line 1 is not UTF-8"),
        ("a.json", b"", "is empty"),
        ("a.csv", b"query,passage\n", "has no rows"),
        ("a.csv.gz", gzip.compress(b"query,passage\nx,y\n" * 99, mtime=0)[:-20], "cannot be read"),
        ("a.parquet", b"PAR1 no", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_sentence_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_data(tmp_path / name)


def test_only_the_split_train_of_a_folder_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"):
        write_kind(tmp_path / "data" / f"{name}.parquet")
    loaded = load_data(tmp_path)
    assert len(loaded) == 8 and "source" not in loaded.column_names
    assert "left aside are 1 of test, 1 of validation" in caplog.text
    assert len(load_data(tmp_path, Selection(split="dev"))) == 4
    assert len(load_data(tmp_path, Selection(split="train+test"))) == 12
    with pytest.raises(ValueError, match="no split 'x', only 'test', 'train', 'validation'"):
        load_data(tmp_path, Selection(split="x"))


@pytest.mark.parametrize("name", ["test.jsonl", "nq-test.parquet", "dev/a.csv"])
def test_questions_of_tests_are_not_trained_on(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_kind(tmp_path / name)
    with pytest.raises(ValueError, match="no split 'train'"):
        load_data(tmp_path)


@pytest.mark.parametrize("dev", ["validation", "valid", "dev", "test"])
def test_a_saved_dict_of_splits_gives_train_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dev: str
) -> None:
    DatasetDict({"train": make_pairs(5), dev: make_pairs(3)}).save_to_disk(str(tmp_path / "saved"))
    assert len(load_data(tmp_path / "saved")) == 5
    assert f"left aside are {dev} with 3 rows" in caplog.text
    assert len(load_data(tmp_path / "saved", Selection(split=dev))) == 3


def test_a_saved_dict_of_sources_stays_one(tmp_path: Path) -> None:
    DatasetDict({"web": make_pairs(5), "news": make_pairs(3)}).save_to_disk(str(tmp_path / "saved"))
    assert set(load_data(tmp_path / "saved")) == {"web", "news"}


def test_a_field_that_begins_far_down_is_found_in_its_line(tmp_path: Path) -> None:
    line = json.dumps({"query": "what is it " * 40, "passage": "it is this " * 40}) + "\n"
    late = json.dumps({"query": "q", "passage": "p", "negative": "n"}) + "\n"
    (tmp_path / "late.jsonl").write_text(line * 14_000 + late * 10)
    with pytest.raises(ValueError, match="line 14001 has the field 'negative', which those before have not"):
        load_data(tmp_path / "late.jsonl")


def test_half_a_surrogate_pair_is_found_in_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"query": "a"}\n{"query": "x \\ud83d"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 holds half a surrogate pair"):
        load_data(tmp_path / "a.jsonl")


def test_files_that_do_not_fit_are_named_both(tmp_path: Path) -> None:
    write_kind(tmp_path / "a.csv")
    pd.DataFrame([{**row, "id": 1} for row in ROWS]).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"b\.csv has a column 'id' and a\.csv has not"):
        load_data(tmp_path)


def test_a_closed_network_is_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"which has user/name, gave no answer .* give a file or a folder"):
        load_data("user/name")
    with pytest.raises(FileNotFoundError, match="it is no id such as user/name"):
        load_data("/none/of/these")


def test_files_of_one_name_in_two_folders_are_two_sources(tmp_path: Path) -> None:
    for name in ("web/a.jsonl", "news/a.jsonl", "news/data-science.jsonl", "mail/train.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_kind(tmp_path / name)
    joined = load_training_data(["web/a.jsonl", "news/a.jsonl", "news/data-science.jsonl"], str(tmp_path))
    assert list(dict.fromkeys(joined["source"][:])) == ["web/a", "news/a", "data-science"]
    joined = load_training_data(["web/a.jsonl", "mail/train.jsonl"], str(tmp_path))
    assert list(dict.fromkeys(joined["source"][:])) == ["a", "mail"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ([1, 2], [0.5, 1.0], "float64"),
        (np.array([1, 2], dtype=np.int32), np.array([2**40, 1]), "int64"),
        (pa.array(["a", "b"], pa.large_string()), ["c", "d"], "large_string"),
        ([None, None], [3, 4], "int64"),
    ],
)
def test_files_whose_values_have_a_common_kind_are_joined_in_any_order(
    tmp_path: Path, one: object, other: object, kind: str, first: int
) -> None:
    for name, extra in zip("ab" if first == 0 else "ba", (one, other), strict=True):
        rows = make_pairs(2).data.table.append_column("extra", pa.chunked_array([pa.array(extra)]))
        Dataset(rows).to_parquet(str(tmp_path / f"{name}.parquet"))
    joined = load_data(tmp_path)
    assert joined.features["extra"].dtype == kind
    assert sorted(map(str, joined["extra"][:])) == sorted(
        str(value) for part in (one, other) for value in pa.array(part).cast(kind).to_pylist()
    )


def test_values_without_a_common_kind_are_refused_with_both_places(tmp_path: Path) -> None:
    make_pairs(2).add_column("extra", [1, 2]).to_parquet(str(tmp_path / "a.parquet"))
    make_pairs(2).add_column("extra", ["x", "y"]).to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(
        ValueError, match=r"Column 'extra' is .*string.* in .*b\.parquet and .*int64.* in .*a\.parquet"
    ):
        load_data(tmp_path)


@pytest.mark.parametrize("packed", [bz2, gzip, lzma])
def test_a_packed_file_of_another_encoding_is_explained_as_it_is_within(tmp_path: Path, packed: Any) -> None:
    ending = {bz2: "bz2", gzip: "gz", lzma: "xz"}[packed]
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(packed.compress('{"query": "a"}\n{"query": "é"}\n'.encode("latin-1")))
    with pytest.raises(ValueError, match=r"line 2 is not UTF-8 .*a\.jsonl \(of a\.jsonl\..*, unpacked\)"):
        load_data(path)


def test_what_cannot_be_unpacked_is_said_to_be_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)  # as if it were not installed
    (tmp_path / "a.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    with pytest.raises(ValueError, match="packed by zstd, which needs `pip install zstandard`"):
        load_data(tmp_path / "a.csv.zst")
