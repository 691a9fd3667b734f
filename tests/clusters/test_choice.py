from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from examples import make_pairs, make_static_model
from sentence_transformers import SentenceTransformer

from st_cluster_batches import Choice, ClusterBatchSampler, attach_clusters, inspect
from st_cluster_batches.__main__ import main
from st_cluster_batches.batches.callback import find_samplers
from st_cluster_batches.batches.card_block import describe_batches
from st_cluster_batches.clusters.attach import cluster_dataset
from st_cluster_batches.clusters.choice import Candidate
from st_cluster_batches.clusters.choice_checks import check_known
from st_cluster_batches.clusters.description import describe_clustering
from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.clusters.options import AttachOptions, ClusterOptions
from st_cluster_batches.clusters.output import write_output
from st_cluster_batches.row_keys import read_marks
from st_cluster_batches.training.pairs import label_pairs
from st_cluster_batches.training.recipe import read_recipe
from st_cluster_batches.training.run import prepare_run


def make_choice(tuned_rows: int = 120, **sources: Candidate) -> Choice:
    evidence = {name: {"rows": 120, "tuned_rows": tuned_rows, "why": "tried"} for name in sources}
    return Choice(sources, 8, "encoder", "0" * 64, "query", evidence, {"seeds": 3})


@pytest.fixture
def two_sources() -> Dataset:
    parts = [make_pairs(120, seed).add_column("source", [name] * 120) for seed, name in enumerate(("fine", "plain"))]
    return concatenate_datasets(parts)


@pytest.fixture
def choice() -> Choice:
    return make_choice(fine=Candidate(20), plain=Candidate())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    choice = make_choice(one=Candidate(96, masked=True, margin=0.05), other=Candidate())
    path = choice.save(tmp_path / "deep" / "er")
    assert Choice.load(path.parent) == Choice.load(path) == choice
    assert choice.cluster_sizes == {"one": 96, "other": None} and choice.masked_sources == ["one"]


def test_batches_of_several_clusters_are_told_of_and_followed(
    workspace: Path, two_sources: Dataset, static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    choice = make_choice(all=Candidate(20, rows_per_stratum=4))
    choice.save(workspace / "tuned")
    assert Choice.load(workspace / "tuned") == choice and choice.rows_per_stratum == 4
    assert str(choice.sources["all"]) == "clusters of 20, 4 rows of each"
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", f"tuned: {workspace / 'tuned'}"))
    run, _ = prepare_run(read_recipe(recipe))
    (sampler,) = find_samplers(run.trainer.get_train_dataloader())[1]
    assert sampler.options.rows_per_stratum == 4
    plan = {**sampler.describe(), "counts": asdict(sampler.counts)}
    assert "**several clusters** of one source" in "\n".join(describe_batches("cluster", [plan]))
    assert "rows_per_stratum" not in caplog.text
    prepare_run(read_recipe(recipe, ["--rows_per_stratum", "2"]))
    assert "rows_per_stratum: 2 is not the 4" in caplog.text
    assert read_recipe(recipe, ["--batch_sampler", "random"]).training.rows_per_stratum is None
    labelled, clustering = label_pairs(make_pairs(120), read_recipe(recipe))
    found = inspect(labelled, clustering=clustering, batch_size=8, show_progress_bar=False)
    assert found.sample.samplers["cluster"].options.rows_per_stratum == 4


def test_labels_alone_tell_of_batches_of_several_clusters_wherever_they_are_made_or_read(
    workspace: Path, static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    choice, told = make_choice(all=Candidate(20, rows_per_stratum=4)), "which labels cannot say"
    attach_clusters(make_pairs(120), static_model, tuned=choice)
    assert caplog.text.count(told) == 1
    labelled, clustering = cluster_dataset(make_pairs(120), static_model, AttachOptions(tuned=choice))
    assert caplog.text.count(told) == 1
    clustering.attach(make_pairs(120))
    assert caplog.text.count(told) == 2
    write_output(workspace / "out", labelled, clustering)
    choice.save(workspace / "tuned")
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3\n", ""))
    words = ["--train_data", str(workspace / "out")]
    prepare_run(read_recipe(recipe, words))
    assert "rows_per_stratum: None is not the 4 that the choice in" in caplog.text
    caplog.clear()
    prepare_run(read_recipe(recipe, [*words, "--tuned", str(workspace / "tuned")]))
    assert "rows_per_stratum: None" not in caplog.text and "not made as tuned" not in caplog.text
    make_choice(all=Candidate(40, rows_per_stratum=4)).save(workspace / "other")
    prepare_run(read_recipe(recipe, [*words, "--tuned", str(workspace / "other")]))
    assert (
        "not made as tuned:" in caplog.text
        and f"attach DATA OUT --encoder E --tuned {workspace / 'other'}" in caplog.text
    )


def test_pairs_bring_along_what_their_clusters_were_tuned_for(
    workspace: Path, static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    choice = make_choice(all=Candidate(20, masked=True, margin=-0.05))
    write_output(workspace / "out", *cluster_dataset(make_pairs(120), static_model, AttachOptions(tuned=choice)))
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3\n", ""))
    words = ["--train_data", str(workspace / "out")]
    caplog.clear()
    prepare_run(read_recipe(recipe, [*words, "--per_device_train_batch_size", "16"]))
    assert "tuned for batches of 8 rows, this loss takes negatives among 16" in caplog.text
    assert "loss: mnrl masks nothing, and the choice in" in caplog.text and "margin: -0.05" in caplog.text
    caplog.clear()
    prepare_run(read_recipe(recipe, [*words, "--loss", "guided"]))
    assert "margin: 0 (absolute) is not the margin: -0.05" in caplog.text
    caplog.clear()
    prepare_run(read_recipe(recipe, [*words, "--loss", "guided", "--margin", "-0.05"]))
    assert not [one for one in caplog.messages if "choice" in one]


def test_sources_that_differ_in_rows_of_a_cluster_are_refused(tmp_path: Path) -> None:
    make_choice(one=Candidate(20, rows_per_stratum=4), other=Candidate(20), none=Candidate()).save(tmp_path)
    with pytest.raises(ValueError, match="one for all"):
        Choice.load(tmp_path)
    with pytest.raises(ValueError, match="nothing but random rows"):
        Candidate(rows_per_stratum=4)


@pytest.mark.parametrize(
    "damage", [{"version": 99}, {"key": "title"}, {"sources": {"a": {"size": 3}}}, {"sources": []}]
)
def test_a_file_that_is_no_choice_is_refused(tmp_path: Path, choice: Choice, damage: dict[str, object]) -> None:
    path = choice.save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ValueError, match=r"choice\.json is no choice.*tune again"):
        Choice.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="st-cluster-batches tune"):
        Choice.load(tmp_path / "nowhere")


def test_a_choice_sets_the_clusters_of_every_source(
    two_sources: Dataset, static_model: SentenceTransformer, choice: Choice
) -> None:
    labelled = attach_clusters(two_sources, static_model, tuned=choice)
    rows = labelled.to_list()
    found = {name: {row["cluster"] for row in rows if row["source"] == name} for name in choice.sources}
    assert len(found["fine"]) == 6 and len(found["plain"]) == 1
    # The source of one stratum has single-source batches, and nothing but.
    plan = ClusterBatchSampler(labelled, 8, world_size=1).plan_epoch()
    assert all(len({rows[row]["source"] for row in batch}) == 1 for batch in plan.rows.tolist())


def test_manifest_and_card_say_what_was_chosen_and_why(
    two_sources: Dataset, static_model: SentenceTransformer, choice: Choice
) -> None:
    _, clustering = cluster_dataset(two_sources, static_model, AttachOptions(tuned=choice, show_progress_bar=False))
    assert clustering.manifest["tuned"] == json.loads(json.dumps(choice.describe()))
    text = "\n".join(describe_clustering(clustering.manifest))
    assert "`fine`: clusters of 20" in text and "`plain`: random" in text


def test_a_source_without_a_choice_stops_before_any_embedding(
    two_sources: Dataset, static_model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_model, "encode", lambda *_, **__: pytest.fail("a text is embedded"))
    with pytest.raises(ValueError, match="says nothing of 'plain', only of 'fine'"):
        attach_clusters(two_sources, static_model, tuned=make_choice(fine=Candidate(20)))


def test_a_choice_may_say_more_than_the_data_have(two_sources: Dataset, static_model: SentenceTransformer) -> None:
    choice = make_choice(fine=Candidate(20), plain=Candidate(), coarse=Candidate(40))
    assert len(set(attach_clusters(two_sources, static_model, tuned=choice)["cluster"])) == 7


def test_a_source_of_one_stratum_is_never_split(
    two_sources: Dataset, static_model: SentenceTransformer, choice: Choice, caplog: pytest.LogCaptureFixture
) -> None:
    options = AttachOptions(ClusterOptions(max_cluster_size=21), tuned=choice)
    counts = cluster_dataset(two_sources, static_model, options)[1].manifest["statistics"]
    assert counts["plain"]["sizes"] == [120] and max(counts["fine"]["sizes"]) <= 21
    assert "too alike to be split" not in caplog.text
    with pytest.raises(ValueError, match="max_cluster_size=15 splits clusters, and there are none: all of all"):
        AttachOptions(ClusterOptions(max_cluster_size=15), tuned=make_choice(all=Candidate()))


def test_a_choice_is_not_mixed_with_other_sizes(choice: Choice) -> None:
    for given in (ClusterOptions(n_clusters=3), ClusterOptions(cluster_size=9)):
        with pytest.raises(ValueError, match="not to be given beside"):
            AttachOptions(given, tuned=choice)
    with pytest.raises(ValueError, match=r"or tuned=, 20 for 'fine', .*; leave max_cluster_size out, or give 20"):
        AttachOptions(ClusterOptions(max_cluster_size=19), tuned=choice)
    assert AttachOptions(ClusterOptions(max_cluster_size=20), tuned=choice).clusters.max_cluster_size == 20
    with pytest.raises(ValueError, match="says how clusters are made"):
        AttachOptions(ClusterOptions(method={"fine": "kmeans"}), tuned=choice)
    assert AttachOptions(AttachOptions(tuned=choice).clusters, tuned=choice).clusters.method == choice.methods
    with pytest.raises(ValueError, match="chosen by key='query'"):
        AttachOptions(ClusterOptions(key="passage"), tuned=choice)


def test_a_key_that_is_not_given_is_the_one_that_was_tuned(workspace: Path, static_model: SentenceTransformer) -> None:
    choice = replace(make_choice(all=Candidate(20)), key="both")
    choice.save(workspace / "tuned")
    dataset, tuned = make_pairs(120), str(workspace / "tuned")
    expected = attach_clusters(dataset, static_model, key="both", cluster_size=20)["cluster"][:]
    assert attach_clusters(dataset, static_model, tuned=tuned)["cluster"][:] == expected
    words = ["attach", str(workspace / "pairs.parquet"), str(workspace / "out")]
    assert main([*words, "--encoder", str(workspace / "encoder"), "--tuned", tuned]) == 0
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", f"tuned: {tuned}"))
    clustering = label_pairs(dataset, read_recipe(recipe))[1]
    assert clustering is not None and clustering.manifest["key"] == "both"


def test_another_encoder_and_a_mask_are_told_of(
    two_sources: Dataset, static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        attach_clusters(
            two_sources,
            static_model,
            tuned=make_choice(fine=Candidate(20, masked=True, margin=0.05), plain=Candidate()),
        )
    assert "guide=train, margin=0.05)" in caplog.text
    assert "tuned with clusters of encoder" in caplog.text and "masks false negatives of fine" in caplog.text


def test_another_model_of_one_name_is_told_from_the_one_that_was_tuned(
    static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    tried, other = Encoder(static_model, Path()), make_static_model(seed=1)
    masked = replace(make_choice(all=Candidate(20, masked=True)), encoder=tried.name, encoder_hash=tried.fingerprint)
    attach_clusters(make_pairs(120), other, tuned=masked, guide_model=other)
    told = sorted(line for line in caplog.messages if "another SentenceTransformer, whose weights" in line)
    assert "tuned with a mask by" in told[0] and "tuned with clusters of" in told[1] and len(told) == 2
    assert all(f"{Encoder(other, Path()).fingerprint[:16]}, not {tried.fingerprint[:16]}" in line for line in told)


@pytest.mark.parametrize("tuned_rows", [24, 25])
def test_sizes_that_were_tuned_on_far_fewer_rows_are_told_of(
    two_sources: Dataset, static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture, tuned_rows: int
) -> None:
    attach_clusters(two_sources, static_model, tuned=make_choice(tuned_rows, fine=Candidate(20), plain=Candidate()))
    told = [line for line in caplog.messages if "small part of the rows" in line]
    if tuned_rows == 24:
        assert "on 24 of 120 of fine." in told[0] and "tune(..., max_rows=25)" in told[0] and "plain" not in told[0]
    assert len(told) == (tuned_rows == 24)


def test_many_sources_that_are_not_what_was_tuned_are_told_of_in_one_line_of_each_kind(
    static_model: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"s{at:02}" for at in range(30)]
    choice = make_choice(2, **dict.fromkeys(names, Candidate(5)))
    evidence = {name: {**own, "columns": ["title", "passage"]} for name, own in choice.evidence.items()}
    rows = make_pairs(600).add_column("source", names * 20)
    attach_clusters(rows, static_model, tuned=replace(choice, evidence=evidence))
    (columns,) = [one for one in caplog.messages if "was tuned on query and passage ['title', 'passage']" in one]
    (sizes,) = [one for one in caplog.messages if "small part of the rows" in one]
    assert all("s04" in one and "s05" not in one and "and 25 more" in one for one in (columns, sizes))


def test_command_and_recipe_follow_a_choice(workspace: Path) -> None:
    make_choice(all=Candidate(20)).save(workspace / "tuned")
    words = [
        "attach",
        str(workspace / "pairs.parquet"),
        str(workspace / "out"),
        "--encoder",
        str(workspace / "encoder"),
    ]
    assert main([*words, "--tuned", str(workspace / "tuned")]) == 0
    labelled = Dataset.load_from_disk(str(workspace / "out"))
    assert len(set(labelled["cluster"])) == 6
    assert main([*words, "--tuned", str(workspace / "tuned"), "--n_clusters", "3"]) == 2
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", f"tuned: {workspace / 'tuned'}"))
    pairs, clustering = label_pairs(make_pairs(120), read_recipe(recipe))
    assert len(set(pairs["cluster"])) == 6 and clustering is not None and "tuned" in clustering.manifest


@pytest.mark.parametrize(
    ("chosen", "proxy", "is_warned"),
    [
        (Candidate(20), "static", True),
        (Candidate(), "static", True),
        (Candidate(32, rows_per_stratum=8), "static", False),
        (Candidate(20), "model", False),
    ],
)
def test_a_transformer_that_follows_static_models_is_warned_of(
    workspace: Path, tiny_bert: Path, caplog: pytest.LogCaptureFixture, chosen: Candidate, proxy: str, is_warned: bool
) -> None:
    replace(make_choice(all=chosen), about={"proxy": proxy}).save(workspace / "tuned")
    recipe = workspace / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", f"tuned: {workspace / 'tuned'}"))
    prepare_run(read_recipe(recipe, ["--encoder", str(workspace / "encoder")]))
    assert "is of static models" not in caplog.text
    words = ["--encoder", str(workspace / "encoder"), "--model_name_or_path", str(tiny_bert)]
    prepare_run(read_recipe(recipe, words))
    assert ("is of static models" in caplog.text) == is_warned


def write_guided(workspace: Path, choice: Choice, *lines: str) -> Path:
    """Write a recipe of a guided loss that follows a choice."""
    choice.save(workspace / "tuned")
    recipe = workspace / "recipe.yaml"
    given = "\n".join([f"tuned: {workspace / 'tuned'}", "loss: guided", *lines])
    recipe.write_text(recipe.read_text().replace("n_clusters: 3", given))
    return recipe


def test_a_guided_loss_masks_with_the_margin_that_was_tuned(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    choice = make_choice(all=Candidate(20, masked=True, margin=-0.05))
    run, _ = prepare_run(read_recipe(write_guided(workspace, choice)))
    assert run.trainer.loss.get_config_dict()["margin"] == -0.05
    assert "not the margin" not in caplog.text and "takes negatives among" not in caplog.text
    run, _ = prepare_run(read_recipe(workspace / "recipe.yaml", ["--margin", "0.1"]))
    assert run.trainer.loss.get_config_dict()["margin"] == 0.1
    assert "margin: 0.1 (absolute) is not the margin: -0.05" in caplog.text


def test_a_run_that_is_not_what_was_tuned_is_warned_of(workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = write_guided(workspace, make_choice(all=Candidate(20)), "per_device_eval_batch_size: 4")
    prepare_run(read_recipe(recipe, ["--per_device_train_batch_size", "16"]))
    assert "loss: guided masks false negatives of all, where the choice" in caplog.text
    assert "without a mask; take loss: mnrl" in caplog.text
    assert "tuned for batches of 8 rows, this loss takes negatives among 16" in caplog.text


def test_a_guided_run_masks_in_the_chosen_sources_alone_and_says_so(
    two_sources: Dataset, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_sources.to_parquet(str(workspace / "pairs.parquet"))
    choice = make_choice(fine=Candidate(20, masked=True, margin=-0.2), plain=Candidate())
    with caplog.at_level(logging.INFO, "st_cluster_batches.training"):
        run, _ = prepare_run(read_recipe(write_guided(workspace, choice)))
    assert "margin: -0.2 for false negatives of fine alone" in caplog.text
    assert not [one for one in caplog.messages if "guided loss" in one or "without a mask" in one]
    loss, clustering = run.trainer.loss, run.clustering
    run.trainer.train()
    assert loss.masked_share > 0 and "of the queries, of sources tuned without a mask" in loss.describe()[0]
    # The clustering remembers it, and new rows are attached alike.
    attached = clustering.attach(two_sources, guide=True, cache_dir=workspace / "cache")
    marked = read_marks(np.array(attached["label"]))[1]
    assert marked.tolist() == [name == "plain" for name in attached["source"]]
    found = inspect(attached, clustering=clustering, batch_size=8, cache_dir=workspace / "cache")
    everywhere = inspect(attached.remove_columns("label"), clustering=clustering, batch_size=8)
    assert found.unmasked_sources == ["plain"] and everywhere.unmasked_sources == []
    assert 0 < found.masks[0].shares["cluster"] < everywhere.masks[0].shares["cluster"]
    assert any("masked for no query, as tuned: those of plain" in line for line in found.describe_lines())
    assert all(two_sources["source"][pair.row] == "fine" for one in found.masks for pair in one.masked + one.kept)


@pytest.mark.parametrize(("known", "remedy"), [(["nl2bash"], "add_column('source', ['nl2bash']"), (["a", "b"], "")])
def test_rows_of_no_source_are_called_by_a_source_only_where_there_is_one(known: list[str], remedy: str) -> None:
    with pytest.raises(ValueError, match="Rows without a column of sources are of one, 'all'") as refused:
        check_known(["all"], known)
    assert (remedy or "--source_column, in a recipe source_column:") in str(refused.value)
    assert ("add_column" in str(refused.value)) == bool(remedy)
