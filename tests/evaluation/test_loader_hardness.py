from __future__ import annotations

from pathlib import Path

from datasets import DatasetDict
from examples import label_pairs, make_pairs, make_static_model
from trainers import make_trainer

from st_cluster_batches.clusters.encoder import Encoder
from st_cluster_batches.evaluation.loader_hardness import measure_loader
from st_cluster_batches.storage.shared_cache import SharedCache


def test_the_first_batches_of_a_trainer_are_measured_though_their_datasets_name_columns_differently(
    tmp_path: Path,
) -> None:
    first, second = label_pairs(make_pairs(40)), label_pairs(make_pairs(40, seed=1))
    datasets = {
        "a": DatasetDict(a=first, b=second.rename_columns({"query": "question", "passage": "answer"})),
        "b": DatasetDict(a=first, b=second),
    }
    found = []
    for name, dataset in datasets.items():
        trainer = make_trainer(tmp_path / name, dataset)
        cache = SharedCache(tmp_path / name / "cache", show_progress_bar=False)
        found.append(measure_loader(trainer.get_train_dataloader(), Encoder(make_static_model(), cache.folder), cache))
    assert found[0] == found[1] and found[0].batches > 1
