from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from examples import label_pairs, make_pairs, make_static_model
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder import losses as cross_encoder
from sentence_transformers.multi_vector_encoder import losses as multi_vector
from sentence_transformers.sentence_transformer import losses as dense
from sentence_transformers.sparse_encoder import losses as sparse
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler
from st_cluster_batches.batches.targets import IN_BATCH_LOSSES, LABEL_LOSSES

# Neither in-batch negatives of pairs, nor labels: regularisers, wrappers (what they wrap is looked at), those of
# triplets, and those that want data of another form.
NEITHER = {
    *("AdaptiveLayerLoss", "Matryoshka2dLoss", "MatryoshkaLoss", "SpladeLoss", "CachedSpladeLoss", "CSRLoss"),
    *("GlobalOrthogonalRegularizationLoss", "FlopsLoss", "CSRReconstructionLoss"),
    *("TripletLoss", "SparseTripletLoss"),
    *("ContrastiveTensionLoss", "DenoisingAutoEncoderLoss"),
}


def test_every_loss_of_the_hosts_is_known_by_what_it_reads() -> None:
    found = {
        (module.__name__, name): one
        for module in (dense, sparse, multi_vector, cross_encoder)
        for name, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, torch.nn.Module) and name.endswith("Loss")
    }
    for (_, name), one in found.items():
        kinds = [issubclass(one, IN_BATCH_LOSSES), issubclass(one, LABEL_LOSSES), name in NEITHER]
        assert sum(kinds) == 1, f"{name} is none or several of: of in-batch negatives, of labels, neither"
    assert {name for _, name in found} > NEITHER


LISTWISE = ("LambdaLoss", "RankNetLoss", "ListNetLoss", "ListMLELoss", "PListMLELoss", "ADRMSELoss")


@pytest.mark.parametrize("name", LISTWISE)
def test_a_loss_of_lists_of_documents_is_told_to_look_at_each_row_by_itself(
    tmp_path: Path, labelled: Dataset, tiny_bert: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    rows = labelled.select_columns(["query", "cluster", "false_negative_keys"])
    rows = rows.add_column("docs", [[text, "keel hull"] for text in labelled["passage"]])
    rows = rows.select_columns(["query", "docs", "cluster", "false_negative_keys"]).add_column(
        "labels", [[1, 0]] * 300
    )
    model = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    options: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "max_steps": 1, "use_cpu": True}
    args = CrossEncoderTrainingArguments(str(tmp_path / "out"), batch_sampler=ClusterBatchSampler, **options)
    loss = getattr(cross_encoder, name)(model)
    CrossEncoderTrainer(model=model, args=args, train_dataset=rows, loss=loss).train()
    assert f"{name} looks at each row by itself" in caplog.text


def test_messages_name_the_loss_that_is_wrapped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = label_pairs(make_pairs(48)).add_column("label", [0.0, 1.0] * 24)
    for one, told in (
        (dense.CosineSimilarityLoss, "CosineSimilarityLoss looks at each row by itself"),
        (dense.MultipleNegativesRankingLoss, "MultipleNegativesRankingLoss does not read it"),
    ):
        model = make_static_model()
        loss = dense.MatryoshkaLoss(model, one(model), matryoshka_dims=[16, 8])
        make_trainer(tmp_path / one.__name__, rows, model=model, loss=loss, max_steps=1).train()
        assert told in caplog.text
    assert "MatryoshkaLoss" not in caplog.text
