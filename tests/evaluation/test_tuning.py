from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets
from planted import make_planted_model, make_planted_pairs
from sentence_transformers import SentenceTransformer

from st_cluster_batches import Choice, attach_clusters, tune
from st_cluster_batches.__main__ import main
from st_cluster_batches.clusters.choice import CHOICE_FILE
from st_cluster_batches.clusters.fingerprint import fingerprint_model
from st_cluster_batches.evaluation import trials
from st_cluster_batches.evaluation.figures import TUNING_FIGURE
from st_cluster_batches.evaluation.start import Start
from st_cluster_batches.evaluation.tune_options import TuneOptions
from st_cluster_batches.evaluation.tuning_report import describe_tuning
from st_cluster_batches.storage.claims import claim

QUICK: dict[str, Any] = {"batch_size": 8, "n_workers": 1, "show_progress_bar": False}


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return make_planted_pairs(900)


def run(pairs: Dataset | DatasetDict, output: Path, knows_topics: bool = True, **options: Any) -> Choice:
    model = make_planted_model(knows_topics)
    return tune(pairs, model, output_dir=output, cache_dir=output / "cache", **QUICK, **options)


def test_clusters_are_chosen_where_they_help_and_the_choice_labels(pairs: Dataset, tmp_path: Path) -> None:
    choice = run(pairs, tmp_path)
    chosen = choice.sources["all"]
    assert chosen.cluster_size is not None
    (found,) = [one for one in choice.evidence["all"]["differences"] if one["name"] == str(chosen)]
    assert found["difference"]["low"] > 0
    record = json.loads(next((tmp_path / "runs").iterdir()).read_text())
    assert choice.evidence["all"]["queries"] == len(record["tuned"]) + len(record["ndcg"]), "all that are held out"
    assert Choice.load(tmp_path).sources == choice.sources
    labelled = attach_clusters(pairs, make_planted_model(True), tuned=tmp_path, cache_dir=tmp_path / "cache")
    assert len(set(labelled["cluster"])) == pytest.approx(len(pairs) / chosen.cluster_size, rel=0.1)


def test_a_source_where_clusters_harm_gets_none(pairs: Dataset, tmp_path: Path) -> None:
    # Topics are to be learned, which batches of one topic do not teach.
    choice = run(pairs, tmp_path, knows_topics=False)
    assert choice.cluster_sizes == {"all": None}
    worst = min(one["difference"]["high"] for one in choice.evidence["all"]["differences"])
    assert worst < -0.02


def test_without_a_folder_runs_alone_are_kept_in_the_cache(pairs: Dataset, tmp_path: Path) -> None:
    pairs = pairs.select(range(400))
    choice = tune(pairs, make_planted_model(True), cache_dir=tmp_path, **QUICK)
    assert choice.sources and list((tmp_path / "tune" / "runs").iterdir())
    assert [path.name for path in (tmp_path / "tune").iterdir()] == ["runs"]


def test_two_choices_are_not_made_in_one_folder(pairs: Dataset, tmp_path: Path) -> None:
    with claim(tmp_path, "tune"), pytest.raises(OSError, match="Another process is at work in"):
        run(pairs, tmp_path)


def test_a_choice_is_not_written_among_rows(pairs: Dataset, tmp_path: Path) -> None:
    pairs.to_parquet(str(tmp_path / "pairs.parquet"))
    with pytest.raises(ValueError, match="holds rows, such as pairs"):
        run(pairs, tmp_path)


def test_what_was_run_is_not_run_again(
    pairs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = pairs.select(range(400))
    real, n_runs = trials.run_trial, 0

    def stop_at(limit: int) -> None:
        def counted(*arguments: Any) -> Any:
            nonlocal n_runs
            if n_runs == limit:
                raise KeyboardInterrupt
            n_runs += 1
            return real(*arguments)

        monkeypatch.setattr(trials, "run_trial", counted)

    stop_at(5)
    with pytest.raises(KeyboardInterrupt):
        run(pairs, tmp_path)
    records = sorted((tmp_path / "runs").iterdir())
    before = [path.stat().st_mtime_ns for path in records]
    assert len(records) == 5 and not (tmp_path / "choice.json").exists()
    stop_at(1000)
    choice = run(pairs, tmp_path)
    total = n_runs
    assert [path.stat().st_mtime_ns for path in records] == before
    assert len(list((tmp_path / "runs").iterdir())) == total
    stop_at(total)
    assert run(pairs, tmp_path) == choice
    assert "which this one replaces" not in caplog.text
    with pytest.raises(KeyboardInterrupt):  # another batch size is another run
        tune(
            pairs,
            make_planted_model(True),
            output_dir=tmp_path,
            cache_dir=tmp_path / "cache",
            **{**QUICK, "batch_size": 16},
        )
    assert "holds a choice made with batch_size 8, which this one replaces" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        run(pairs.select(range(350)), tmp_path)
    assert "holds a choice made with other rows, which" in caplog.text


@pytest.mark.slow
def test_workers_find_what_one_process_finds(pairs: Dataset, tmp_path: Path) -> None:
    found = [run(pairs.select(range(700)), tmp_path / "one")]
    model = make_planted_model(True)
    options = {**QUICK, "n_workers": 2}
    found.append(tune(pairs.select(range(700)), model, output_dir=tmp_path / "two", cache_dir=tmp_path, **options))
    assert found[0].evidence == found[1].evidence


def test_a_small_source_gets_one_stratum_with_a_warning(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = ["one"] * 60 + ["other"] * 50 + ["third"] * 40
    small = pairs.select(range(150)).add_column("source", sources)
    with caplog.at_level(logging.WARNING):
        choice = run(small, tmp_path, key=["query", "both"])
    assert choice.cluster_sizes == {"one": None, "other": None, "third": None}
    (record,) = caplog.records  # one line for all of them, and for both keys
    assert "3 of 3 sources get one stratum" in record.getMessage()
    assert "'one' (60 rows, 60 looked at); 'other' (50 rows, 50 looked at); 'third'" in record.getMessage()
    assert "queries can be held out" in choice.evidence["one"]["why"]


def test_of_several_keys_the_one_that_promises_most_is_taken(pairs: Dataset, tmp_path: Path) -> None:
    own = tmp_path / "keys" / "mine.txt"
    own.parent.mkdir()
    own.touch()
    several = run(pairs, tmp_path, key=["query", "passage"], n_seeds=2)
    (other,) = {"query", "passage"} - {several.key}
    follow = Choice.load(tmp_path / "keys" / other)
    by = {key: run(pairs, tmp_path, key=key, n_seeds=2) for key in (other, several.key)}  # of the trials that were run
    assert list((tmp_path / "keys").iterdir()) == [own]  # nothing stale, and nothing lost
    promises = several.about["promises"]
    assert promises == {key: own.about["promises"][key] for key, own in by.items()}
    assert several.key == max(promises, key=promises.get) and promises[several.key] > 0
    assert several.sources == by[several.key].sources
    assert f"Clusters by {several.key}, which promises most" in describe_tuning(several.describe())
    assert "with 80 % intervals, of small models" in describe_tuning(several.describe())
    earlier = {name: one for name, one in several.about.items() if name != "confidence"}
    assert "with 95 % intervals" in describe_tuning(replace(several, about=earlier).describe())
    assert (follow.key, follow.sources, follow.evidence) == (other, by[other].sources, by[other].evidence)
    assert f"Clusters by {other}; {several.key} promises most" in describe_tuning(follow.describe())


def test_communities_are_tried_with_a_partition_a_seed_and_once_for_all_keys(pairs: Dataset, tmp_path: Path) -> None:
    options = {"guide": True, "communities": True, "n_seeds": 3}
    choice = run(pairs.select(range(400)), tmp_path, key=["query", "both"], **options)
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    cut = [one for one in records if one["candidate"]["method"] == "communities"]
    trials_of = [(json.dumps(one["candidate"]), one["rate"], one["seed"]) for one in cut]
    assert len(set(trials_of)) == len(trials_of) > 0
    (other,) = {"query", "both"} - {choice.key}
    found = [one.evidence["all"]["ndcg"] for one in (choice, Choice.load(tmp_path / "keys" / other))]
    assert all(found[0][name] == found[1][name] for name in found[0] if "communities" in name)


def test_masks_are_tried_where_a_guide_is_wanted(pairs: Dataset, tmp_path: Path) -> None:
    evidence = run(pairs.select(range(400)), tmp_path, guide=True, n_seeds=2).evidence["all"]
    assert 0 < evidence["guide_ndcg"] < 1
    assert {one["masked"] for one in evidence["differences"]} == {True, False}


def test_a_guide_of_its_own_masks_and_communities_need_none(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs, guide = pairs.select(range(400)), make_planted_model(False)
    choice = run(pairs, tmp_path, guide_model=guide, n_seeds=2)
    own = run(pairs, tmp_path, guide=True, n_seeds=2)
    assert choice.about["guide_hash"] == fingerprint_model(guide) and "guide_hash" not in own.about
    scores = [one.evidence["all"]["ndcg"] for one in (choice, own)]
    assert {name for name in scores[0] if scores[0][name] != scores[1][name]} <= {
        name for name in scores[0] if name.endswith(", masked")
    }
    assert caplog.text.count("is to mask by its own vectors") == 1
    assert scores[0] != scores[1] and choice.evidence["all"]["guide_ndcg"] != own.evidence["all"]["guide_ndcg"]
    cut = run(pairs, tmp_path, communities=True, n_seeds=2).evidence["all"]
    assert any("communities" in name for name in cut["ndcg"]) and cut["guide_ndcg"] is None


@pytest.mark.slow
def test_the_model_itself_is_trained_where_that_is_wanted(pairs: Dataset, tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    before = fingerprint_model(model)
    options = {**QUICK, "proxy": "model", "n_seeds": 2, "batch_size": 64}
    choice = tune(
        pairs.select(range(400)), model, output_dir=tmp_path / "out", cache_dir=tmp_path / "cache", **options
    )
    evidence = choice.evidence["all"]
    assert choice.about["proxy"] == "model" and choice.about["epochs"] == 1 and len(evidence["ndcg"]) == 4
    assert all(1e-6 < rate < 1e-3 for rate in evidence["rates"].values())
    assert fingerprint_model(model) == before


@pytest.mark.slow
def test_workers_train_the_first_layers_of_a_model_with_one_rate(
    pairs: Dataset, tiny_bert: Path, tmp_path: Path
) -> None:
    options = {**QUICK, "proxy": "model", "n_steps": 2, "n_seeds": 2, "batch_size": 64, "n_workers": 2}
    options |= {"n_layers": 1, "max_seq_length": 8, "learning_rate": 1e-4, "bf16": True}
    choice = tune(
        pairs.select(range(400)),
        SentenceTransformer(str(tiny_bert), device="cpu"),
        output_dir=tmp_path / "out",
        cache_dir=tmp_path / "cache",
        **options,
    )
    assert set(choice.evidence["all"]["rates"].values()) == {1e-4}
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 4 * 2
    assert choice.about["layers"] == 1 and choice.about["steps"] == 2


def test_the_first_layers_are_kept_and_the_model_given_stays_whole(tiny_bert: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    before = fingerprint_model(model)
    start = Start.load_model(model, tmp_path, n_layers=1, max_seq_length=8)
    assert start.model is not None and start.model.max_seq_length == 8
    assert len(start.model[0].auto_model.encoder.layer) == 1
    assert fingerprint_model(model) == before != start.fingerprint
    with pytest.raises(ValueError, match="whose depth is 2"):
        Start.load_model(model, tmp_path, n_layers=99)
    with pytest.raises(ValueError, match="take the whole model"):
        Start.load_model(make_planted_model(True), tmp_path, n_layers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 2, "bf16": True}, "n_layers, bf16 mean nothing with proxy='static'"),
        ({"proxy": "model", "n_epochs": 2, "n_steps": 9}, "n_steps=9 and n_epochs=2 both say how long a run is"),
        ({"proxy": "model", "learning_rate": 2.0}, "such as 2e-5"),
        ({"proxy": "model", "n_layers": 0}, "n_layers"),
        ({"margin": 0.1}, "margin=0.1 is that of a mask, and without a guide there is none"),
        ({"proxy": "small"}, "neither"),
        ({"key": "title"}, "key='title' is none of 'query'"),
        ({"key": ["query", "title"]}, "nor several of them"),
        ({"key": []}, "nor several of them"),
    ],
)
def test_idle_options_of_trials_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TuneOptions(16, **options)


def test_labelled_pairs_are_refused_and_negatives_told_of(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="take no in-batch negatives"):
        run(pairs.add_column("label", [0, 1] * 450), tmp_path)
    with pytest.raises(ValueError, match="needs a passage"):
        run(pairs.select_columns(["query"]), tmp_path)
    with caplog.at_level(logging.WARNING):
        run(pairs.select(range(60)).add_column("negative", pairs["query"][60:120]), tmp_path)
    assert "no explicit negatives" in caplog.text


def test_the_command_prints_what_a_person_reads_in_a_minute(
    pairs: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [pairs.add_column("source", ["large"] * 900), pairs.select(range(60)).add_column("source", ["small"] * 60)]
    concatenate_datasets(parts).to_parquet(str(tmp_path / "pairs.parquet"))
    make_planted_model(True).save(str(tmp_path / "encoder"))
    words = ["tune", str(tmp_path / "pairs.parquet"), "--encoder", str(tmp_path / "encoder"), "--batch_size", "8"]
    words += ["--workers", "1", "--output", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Static models chose, for a static model." in text and "--proxy model" in text
    for said in (
        "large: 900 rows",
        "small: 60 rows; one stratum",
        "clusters of 16",
        "<- chosen",
        "looks better than it is",
    ):
        assert said in text
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / CHOICE_FILE).read_text())
    assert not list((tmp_path / "out").glob("*results*"))
    assert set(printed["sources"]) == {"large", "small"}
    assert (tmp_path / "out" / f"{TUNING_FIGURE}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "words", [["--batch_size", "1"], ["--seeds", "1"], ["--margin", "3"], ["--encoder", "/nowhere"]]
)
def test_bad_options_end_with_usage(pairs: Dataset, tmp_path: Path, words: list[str]) -> None:
    pairs.to_parquet(str(tmp_path / "pairs.parquet"))
    make_planted_model(True).save(str(tmp_path / "encoder"))
    given = ["tune", str(tmp_path / "pairs.parquet"), "--output", str(tmp_path / "out")]
    assert main([*given, "--encoder", str(tmp_path / "encoder"), *words]) == 2


def test_the_dimensions_that_were_tuned_with_are_those_that_are_clustered(
    pairs: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    choice, model = run(pairs, tmp_path, truncate_dim=8), make_planted_model(True)
    for kept, is_other in ((8, False), (None, True)):
        caplog.clear()
        attach_clusters(pairs, model, tuned=choice, truncate_dim=kept, cache_dir=tmp_path / "cache")
        assert ("its truncate_dim included" in caplog.text) == is_other
