"""Arguments as people pass them: each works, or gets one sentence that says what to pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from examples import label_pairs, make_pairs, make_static_model
from torch.utils.data import ConcatDataset
from trainers import make_trainer

from st_cluster_batches import (
    ClusterBatchSampler,
    Clustering,
    ClusterMultiDatasetBatchSampler,
    attach_clusters,
    attach_keys,
    export_batches,
    fit_clusters,
    inspect,
    tune,
)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "show_progress_bar": False}


def test_numbers_of_numpy_are_numbers(tmp_path: Path, options: dict[str, Any]) -> None:
    clustering = fit_clusters(
        make_pairs(100, 79),
        make_static_model(),
        n_clusters=np.int64(3),
        max_cluster_size=np.int32(50),
        seed=np.uint8(1),
        niter=np.int64(5),
        truncate_dim=np.int64(8),
        batch_size=np.int16(16),
        **options,
    )
    clustering.save(tmp_path / "saved")
    assert Clustering.load(tmp_path / "saved").manifest == clustering.manifest
    labelled = clustering.attach(
        make_pairs(100, 79), batch_size=np.int64(8), false_negative_threshold=np.float32(0.9), **options
    )
    exported = {"batch_size": np.int64(8), "world_size": np.int64(2), "epochs": np.int64(1), "seed": np.int64(3)}
    assert export_batches(labelled, tmp_path / "batches", show_progress_bar=False, **exported) == 6
    assert export_batches(labelled, tmp_path / "batches", 8, 2, seed=3, show_progress_bar=False) == 6
    found = inspect(labelled, make_static_model(), batch_size=np.int64(8), seed=np.int64(0), sample_rows=np.int64(64))
    assert found.batch_size == 8 and type(found.batch_size) is int


@pytest.mark.parametrize(
    "name", ["n_clusters", "cluster_size", "max_cluster_size", "truncate_dim", "batch_size", "niter"]
)
@pytest.mark.parametrize("value", [2.5, True, np.float64(2.0), 0, -1, "many"])
def test_what_is_no_count_is_refused_in_one_sentence(name: str, value: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=\S+ (must be|is neither)"):
        attach_clusters(make_pairs(20), make_static_model(), **{name: value}, **options)


@pytest.mark.parametrize(
    "given",
    [{"cluster_size": {"all": 20, "al": 5}}, {"cluster_size": 20, "method": {"all": "kmeans", "al": "communities"}}],
)
def test_a_source_that_is_none_is_refused(given: dict[str, Any], options: dict[str, Any]) -> None:
    message = r"(cluster_size|method) says something of the source 'al', and the data have alone 'all';"
    with pytest.raises(ValueError, match=message):
        attach_clusters(make_pairs(60), make_static_model(), **given, **options)
    if "method" not in given:
        with pytest.raises(ValueError, match=message):
            fit_clusters(make_pairs(60), make_static_model(), **given, **options)


def test_more_dimensions_than_the_encoder_has_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="truncate_dim=17 is more than the 16 dimensions of the encoder"):
        attach_clusters(make_pairs(20), make_static_model(), truncate_dim=17, **options)


def test_a_path_and_a_static_model_that_is_to_be_made_static_are_encoders(
    saved_model: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    pairs = make_pairs(60)
    expected = attach_clusters(pairs, make_static_model(), n_clusters=3, **options)["cluster"][:]
    assert attach_clusters(pairs, saved_model, n_clusters=3, **options)["cluster"][:] == expected
    clustering = fit_clusters(pairs, f"static:{saved_model}", n_clusters=3, **options)
    clustering.save(tmp_path / "topics")
    again = Clustering.load(tmp_path / "topics", encoder=saved_model)
    assert again.attach(pairs, **options)["cluster"][:] == expected


@pytest.mark.parametrize("kind", ["SparseEncoder", "CrossEncoder", "MultiVectorEncoder"])
@pytest.mark.parametrize("by_path", [False, True])
def test_a_model_of_another_kind_is_refused(
    kind: str, by_path: bool, tiny_bert: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    import sentence_transformers
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    sparse = {"modules": [*make_static_model(), SparseAutoEncoder(input_dim=16, hidden_dim=32, k=8, k_aux=16)]}
    given = {"SparseEncoder": sparse, "CrossEncoder": {"model_name_or_path": str(tiny_bert), "num_labels": 1}}
    model = getattr(sentence_transformers, kind)(**given.get(kind, {"model_name_or_path": str(tiny_bert)}))
    encoder: Any = model
    if by_path:
        model.save_pretrained(str(tmp_path / "model"))
        encoder = tmp_path / "model"
    with pytest.raises(
        TypeError, match=rf"is a {kind}; clustering needs one dense vector .* pass a SentenceTransformer"
    ):
        attach_clusters(make_pairs(20), encoder, **options)


def test_a_dict_of_datasets_is_a_dataset_dict(options: dict[str, Any]) -> None:
    named = {"a": make_pairs(40, 1), "b": make_pairs(50, 2)}
    labelled: Any = attach_clusters(named, make_static_model(), n_clusters=2, **options)  # type: ignore[type-var]
    assert isinstance(labelled, DatasetDict) and set(labelled) == {"a", "b"}
    clustering = fit_clusters(named, make_static_model(), n_clusters=2, **options)  # type: ignore[arg-type]
    assert isinstance(clustering.attach(named, **options), DatasetDict)  # type: ignore[type-var]
    assert inspect(dict(labelled), make_static_model(), batch_size=8).rows == 90  # type: ignore[arg-type]
    for wrong in ([make_pairs(5)], make_pairs(5).to_dict(), {}):
        with pytest.raises(TypeError, match="attach_clusters takes a Dataset, a DatasetDict or a dict of Datasets"):
            attach_clusters(wrong, make_static_model(), **options)  # type: ignore[type-var]


@pytest.mark.parametrize("call", [attach_clusters, fit_clusters, tune, inspect, attach_keys])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"query": "a", "passage": "b"}], r"list of dict; make one of rows: Dataset\.from_list\("),
        ([make_pairs(3)], "list of Dataset; give each a name: {"),
        ({"query": ["a"], "passage": ["b"]}, r"dict of list; make one of columns: Dataset\.from_dict\("),
        (make_pairs(3).to_iterable_dataset(), r"not IterableDataset; take rows: Dataset\.from_list\(list\(stream"),
        ({"a": make_pairs(3).to_iterable_dataset()}, "dict of IterableDataset; take rows of each: Dataset"),
        (make_pairs(3).to_pandas(), r"DataFrame; make one: Dataset\.from_pandas"),
        ("pairs.parquet", "not str; load it first"),
    ],
)
def test_what_is_no_dataset_is_refused_with_the_call_that_makes_one(call: Any, given: Any, message: str) -> None:
    arguments: dict[Any, dict[str, Any]] = {tune: {"batch_size": 8}, inspect: {"batch_size": 8}, attach_keys: {}}
    encoder = () if call is attach_keys else (make_static_model(),)
    with pytest.raises(TypeError, match=message) as error:
        call(given, *encoder, **arguments.get(call, {}))
    is_stream = "stream" in message or "IterableDataset" in message
    assert (".attach(stream)" in str(error.value)) == (is_stream and call is attach_clusters)


def test_configure_without_its_call_says_so(tmp_path: Path, labelled: Dataset) -> None:
    trainer = make_trainer(tmp_path, labelled, batch_sampler=ClusterBatchSampler.configure)
    with pytest.raises(TypeError, match=r"without its call; pass ClusterBatchSampler.configure\(\)"):
        trainer.train()
    parts = DatasetDict({"a": labelled, "b": label_pairs(make_pairs(50, 3))})
    trainer = make_trainer(tmp_path, parts, multi_dataset_batch_sampler=ClusterMultiDatasetBatchSampler.configure)
    with pytest.raises(TypeError, match=r"without its call; pass ClusterMultiDatasetBatchSampler.configure\(\)"):
        trainer.train()
    with pytest.raises(TypeError, match="unexpected keyword argument 'stratum'"):
        ClusterBatchSampler.configure(stratum="x")


def test_a_sampler_that_is_built_is_no_argument_of_a_trainer(tmp_path: Path, labelled: Dataset) -> None:
    parts = DatasetDict({"a": labelled, "b": label_pairs(make_pairs(50, 3))})
    built = ClusterBatchSampler(labelled, 8)
    assert next(len(batch) for batch in built) == 8  # as a DataLoader asks for them
    for train in (labelled, parts):
        trainer = make_trainer(tmp_path, train, batch_sampler=built)
        with pytest.raises(TypeError, match=r"built already. Pass the class, ClusterBatchSampler, or"):
            trainer.train()
    several = ClusterMultiDatasetBatchSampler(ConcatDataset([labelled]), [built])
    trainer = make_trainer(tmp_path, parts, multi_dataset_batch_sampler=several)
    with pytest.raises(TypeError, match=r"built already. Pass the class, ClusterMultiDatasetBatchSampler, or"):
        trainer.train()


def test_several_datasets_are_exported_one_by_one(tmp_path: Path, labelled: Dataset) -> None:
    with pytest.raises(TypeError, match="takes one Dataset, not a DatasetDict; of several, export each"):
        export_batches(DatasetDict({"a": labelled}), tmp_path, 8)  # type: ignore[arg-type]


def test_an_export_holds_the_columns_that_are_named_in_their_order(tmp_path: Path, labelled: Dataset) -> None:
    steps = export_batches(labelled, tmp_path / "x", 8, columns=("passage", "query"), show_progress_bar=False)
    written = Dataset.from_parquet([str(one) for one in sorted((tmp_path / "x").glob("*.parquet"))])
    assert written.column_names == ["passage", "query"] and len(written) == 8 * steps
    with pytest.raises(ValueError, match="batches of another plan"):
        export_batches(labelled, tmp_path / "x", 8, show_progress_bar=False)
    with pytest.raises(ValueError, match="no column 'answer'"):
        export_batches(labelled, tmp_path / "y", 8, columns=("query", "answer"), show_progress_bar=False)
