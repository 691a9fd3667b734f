from __future__ import annotations

import inspect

import torch
from sentence_transformers.cross_encoder import losses as cross_encoder
from sentence_transformers.multi_vector_encoder import losses as multi_vector
from sentence_transformers.sentence_transformer import losses as dense
from sentence_transformers.sparse_encoder import losses as sparse

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
