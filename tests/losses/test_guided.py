"""The guided losses are what they claim: a brute force, GIST, their cached form, and a real trainer."""

from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk
from examples import make_pairs, make_static_model, make_tiny_bert
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores
from sentence_transformers.sentence_transformer.losses import (
    GISTEmbedLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.util import cos_sim, dot_score
from trainers import make_trainer

from st_cluster_batches import ClusterBatchSampler, attach_clusters, export_batches
from st_cluster_batches.clusters.choice import Candidate, Choice
from st_cluster_batches.losses.guided import (
    CachedGuidedMultipleNegativesRankingLoss,
    GuidedMultipleNegativesRankingLoss,
)
from st_cluster_batches.losses.multi_vector import (
    CachedGuidedMultiVectorMultipleNegativesRankingLoss,
    GuidedMultiVectorMultipleNegativesRankingLoss,
)
from st_cluster_batches.row_keys import ROW_KEY, are_row_keys, read_marks

ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")


def make_rows(n_rows: int, n_negatives: int = 0) -> Dataset:
    pairs = make_pairs(n_rows)
    for at in range(n_negatives):
        pairs = pairs.add_column(f"negative_{at}", make_pairs(n_rows, seed=at + 1)["passage"])
    return pairs


def make_bert(path: Path, dropout: float = 0.0) -> SentenceTransformer:
    transformer = Transformer(str(make_tiny_bert(path, dropout)))
    return SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu")


def embed(model: SentenceTransformer, rows: Dataset) -> list[torch.Tensor]:
    """Embeddings of all columns of text, with gradients of their own."""
    columns = [name for name in rows.column_names if name not in ("cluster", "false_negative_keys", ROW_KEY)]
    return [model.encode(rows[name][:], convert_to_tensor=True).clone().requires_grad_() for name in columns]


def judge(guide: SentenceTransformer, rows: Dataset) -> list[torch.Tensor]:
    """The guide's vectors, as `attach` keeps them."""
    vectors = embed(guide, rows)
    return [torch.nn.functional.normalize(one.detach()).half().float() for one in vectors]


def brute_force(
    embeddings: list[torch.Tensor],
    guides: list[torch.Tensor],
    threshold: Any,
    directions: tuple[str, ...],
    teacher: tuple[float, float] = (0.0, 1.0),
    mask: bool = True,
) -> torch.Tensor:
    """Go through all pairs one by one."""
    n_rows, total = len(embeddings[0]), torch.zeros(())
    for row in range(n_rows):
        limit = threshold(guides[0][row] @ guides[1][row])
        logits = [cos_sim(embeddings[0][row], embeddings[1][row])[0, 0] * 20]
        soft = [guides[0][row] @ guides[1][row]]
        for direction in directions:
            source = 0 if direction.startswith("query") else 1
            for column in [0] if direction.endswith("query") else range(1, len(embeddings)):
                for other in range(n_rows):
                    is_own_pair = other == row and source + column == 1
                    is_own_kind = other == row and ((source == 0 == column) or (source == 1 and column > 0))
                    if (is_own_pair and direction == "query_to_doc") or is_own_kind:
                        continue
                    similarity = guides[source][row] @ guides[column][other]
                    if mask and similarity > limit and not is_own_pair:
                        continue
                    logits.append(cos_sim(embeddings[source][row], embeddings[column][other])[0, 0] * 20)
                    if direction == "query_to_doc":
                        soft.append(similarity)
        total = total + torch.stack(logits).logsumexp(0) - logits[0]
        weight, scale = teacher
        if weight:
            target = (torch.stack(soft) * scale).softmax(0)
            total = total - weight * (target * torch.stack(logits[: len(soft)]).log_softmax(0)).sum()
    return total / n_rows


@pytest.fixture
def guide() -> SentenceTransformer:
    return make_static_model(seed=5)


@pytest.mark.parametrize("n_negatives", [0, 1, 3])
@pytest.mark.parametrize("directions", [("query_to_doc",), ALL_DIRECTIONS])
@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({}, lambda positive: positive),
        ({"margin": -0.2}, lambda positive: positive - 0.2),
        ({"margin": 0.9, "margin_strategy": "relative"}, lambda positive: positive - 0.1 * positive.abs()),
    ],
)
def test_loss_and_gradients_equal_a_brute_force(
    guide: SentenceTransformer, n_negatives: int, directions: Any, options: Any, threshold: Any
) -> None:
    rows = attach_clusters(make_rows(24, n_negatives), guide, n_clusters=2, guide=True)
    model = make_static_model(seed=1)
    loss = GuidedMultipleNegativesRankingLoss(model, guide=rows, directions=directions, **options)
    given, expected = embed(model, rows), embed(model, rows)
    found = loss.compute_loss_from_embeddings(given, torch.tensor(rows[ROW_KEY]))
    wanted = brute_force(expected, judge(guide, rows), threshold, directions)
    torch.testing.assert_close(found, wanted)
    assert 0 < loss.masked_share < 1
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(
            torch.autograd.grad(found, one, retain_graph=True)[0],
            torch.autograd.grad(wanted, other, retain_graph=True)[0],
        )


def attach_as_tuned(rows: Dataset, guide: SentenceTransformer, **options: Any) -> Dataset:
    """Attach what a choice says that masks false negatives of `open` rows, and none of `strict` ones."""
    sources = {"open": Candidate(20, masked=True, margin=-0.2), "strict": Candidate(20)}
    choice = Choice(sources, 8, "encoder", "0" * 64)
    names = ["open", "strict", "strict"] * (len(rows) // 3)
    return attach_clusters(rows.add_column("source", names), guide, tuned=choice, **options)


@pytest.mark.parametrize("kind", [GuidedMultipleNegativesRankingLoss, CachedGuidedMultipleNegativesRankingLoss])
@pytest.mark.parametrize("directions", [("query_to_doc",), ALL_DIRECTIONS])
def test_a_mask_follows_the_choice_source_by_source(
    guide: SentenceTransformer, tmp_path: Path, kind: Any, directions: Any
) -> None:
    attach_as_tuned(make_rows(24, 1), guide).to_parquet(str(tmp_path / "rows.parquet"))
    rows = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "read"))
    is_cached = kind is CachedGuidedMultipleNegativesRankingLoss
    model = make_bert(tmp_path / "model").eval() if is_cached else make_static_model(seed=1)
    options = {"mini_batch_size": 5} if is_cached else {}
    loss = kind(model, guide=rows, directions=directions, margin=-0.2, **options)
    names = iter(rows["source"])
    wanted = brute_force(
        embed(loss.model, rows.remove_columns("source")),
        judge(guide, rows.remove_columns("source")),
        lambda positive: positive - 0.2 if next(names) == "open" else positive + 9,
        directions,
    )
    given, keys = embed(loss.model, rows.remove_columns("source")), torch.tensor(rows[ROW_KEY])
    if is_cached:
        found = loss.calculate_loss([list(one.split(5)) for one in given], keys)
    else:
        found = loss.compute_loss_from_embeddings(given, keys)
    torch.testing.assert_close(found, wanted)
    assert 0 < loss.masked_share < 1 and "none for 67% of the queries" in loss.describe()[0]


def test_a_trainer_masks_in_the_chosen_sources_alone(guide: SentenceTransformer, tmp_path: Path) -> None:
    shares = []
    for names in (["open"], ["strict"], ["open", "strict"]):
        rows = attach_as_tuned(make_rows(96), guide)
        rows = rows.filter(lambda row: row["source"] in names)  # noqa: B023
        loss = GuidedMultipleNegativesRankingLoss(make_static_model(seed=1), guide=rows, margin=-0.2)
        make_trainer(tmp_path, rows, model=loss.model, loss=loss).train()
        shares.append(loss.masked_share)
    assert shares[0] > shares[2] > shares[1] == 0


def test_a_guide_that_was_not_tuned_masks_everywhere(guide: SentenceTransformer) -> None:
    choice = Choice({"all": Candidate(20)}, 8, "encoder", "0" * 64)
    rows = attach_clusters(make_rows(24), guide, tuned=choice, guide=True)
    assert not read_marks(np.array(rows[ROW_KEY]))[1].any()
    marked = attach_as_tuned(make_rows(24), guide)
    keys = np.array(marked[ROW_KEY])
    assert read_marks(keys)[1].tolist() == [name == "strict" for name in marked["source"]]
    # Marked or not, a key is a key, and of the same row.
    assert are_row_keys(keys).all()
    assert read_marks(keys)[0].tolist() == attach_clusters(make_rows(24), guide, n_clusters=1, guide=True)[ROW_KEY][:]


@pytest.mark.parametrize("mask", [True, False])
def test_soft_labels_equal_a_brute_force(guide: SentenceTransformer, mask: bool) -> None:
    rows = attach_clusters(make_rows(16, 1), guide, n_clusters=2, guide=True)
    model = make_static_model(seed=1)
    loss = GuidedMultipleNegativesRankingLoss(model, guide=rows, mask=mask, teacher_weight=0.3, teacher_scale=50.0)
    found = loss.compute_loss_from_embeddings(embed(model, rows), torch.tensor(rows[ROW_KEY]))
    wanted = brute_force(
        embed(model, rows), judge(guide, rows), lambda positive: positive, ("query_to_doc",), (0.3, 50.0), mask
    )
    torch.testing.assert_close(found, wanted)


def find_clear_margin(guides: list[torch.Tensor]) -> float:
    """A margin that no similarity is near: float16 on disk would turn a tie one way or the other."""
    positive = (guides[0] * guides[1]).sum(1)[:, None]
    gaps = torch.cat([(positive - first @ second.T) for first in guides[:2] for second in guides], dim=1)
    margins = torch.arange(0.001, 0.03, 0.0005)
    # Similarities are near 1 here, so that the absolute and the relative margin are nearly the same.
    clear = [min((gaps - one).abs().min(), (gaps / positive - one).abs().min()).item() for one in margins]
    return margins[clear.index(max(clear))].item()


@pytest.mark.parametrize(("n_negatives", "contrasts"), [(0, False), (0, True), (1, False)])
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
def test_loss_and_gradients_equal_gist_with_the_same_guide(
    tmp_path: Path, n_negatives: int, contrasts: bool, strategy: Any
) -> None:
    (tmp_path / "g").mkdir()
    teacher, model = make_bert(tmp_path / "g" / "guide").eval(), make_bert(tmp_path / "model").eval()
    with torch.no_grad():
        for weight in teacher.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)), alpha=0.5)
    rows = attach_clusters(make_rows(20, n_negatives), teacher, n_clusters=1, guide=True)
    directions = ("query_to_doc", "query_to_query", "doc_to_doc") if contrasts else ("query_to_doc",)
    margin = find_clear_margin(judge(teacher, rows))
    options = {"margin": -margin} if strategy == "absolute" else {"margin": 1 - margin, "margin_strategy": "relative"}
    ours = GuidedMultipleNegativesRankingLoss(model, guide=rows, scale=100.0, directions=directions, **options)
    gist = GISTEmbedLoss(
        model,
        teacher,
        margin=margin,
        margin_strategy=strategy,
        contrast_anchors=contrasts,
        contrast_positives=contrasts,
    )
    columns = ["query", "passage", "negative_0"][: n_negatives + 2]
    values = []
    for loss in (ours, gist):
        model.zero_grad()
        features = [model.preprocess(rows[name][:]) for name in columns]
        value = loss(features, torch.tensor(rows[ROW_KEY]))
        value.backward()
        values.append((value.detach(), [one.grad.clone() for one in model.parameters() if one.grad is not None]))
    assert 0 < ours.masked_share < 1
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"directions": ALL_DIRECTIONS, "margin": -0.1},
        {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
        {"hardness_mode": "all_negatives", "hardness_strength": 5.0},
        {"teacher_weight": 0.3},
        {"teacher_weight": 0.3, "mask": False},
    ],
)
def test_cached_equals_plain(tmp_path: Path, guide: SentenceTransformer, options: Any) -> None:
    model = make_bert(tmp_path / "model").eval()
    rows = attach_clusters(make_rows(26, 1), guide, n_clusters=2, guide=True)
    values = []
    for kind in (GuidedMultipleNegativesRankingLoss, CachedGuidedMultipleNegativesRankingLoss):
        cached = {} if kind is GuidedMultipleNegativesRankingLoss else {"mini_batch_size": 4}
        loss = kind(model, guide=rows, **options, **cached)
        model.zero_grad()
        features = [model.preprocess(rows[name][:]) for name in ("query", "passage", "negative_0")]
        value = loss(features, torch.tensor(rows[ROW_KEY]))
        value.backward()
        gradients = [one.grad.clone() for one in model.parameters() if one.grad is not None]
        values.append((value.detach(), gradients, loss.masked_share))
    torch.testing.assert_close(values[0][:2], values[1][:2])
    assert values[0][2] == pytest.approx(values[1][2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_masks_the_same_negatives(guide: SentenceTransformer, dtype: torch.dtype) -> None:
    rows = attach_clusters(make_rows(64), guide, n_clusters=2, guide=True)
    model = make_static_model(seed=1)
    shares = []
    for enabled in (False, True):
        loss = GuidedMultipleNegativesRankingLoss(model, guide=rows)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            value = loss.compute_loss_from_embeddings(embed(model, rows), torch.tensor(rows[ROW_KEY]))
        assert torch.isfinite(value)
        shares.append(loss.masked_share)
    assert shares[0] == shares[1]


def test_negatives_above_the_margin_are_masked_whatever_the_similarity_function(guide: SentenceTransformer) -> None:
    rows = attach_clusters(make_rows(24), guide, n_clusters=2, guide=True)
    model, keys = make_static_model(seed=1), torch.tensor(rows[ROW_KEY])
    late = GuidedMultipleNegativesRankingLoss(model, guide=rows)
    late.similarity_fct, late.scale = dot_score, 1.0
    early = GuidedMultipleNegativesRankingLoss(model, guide=rows, similarity_fct=dot_score, scale=1.0)
    values = [one.compute_loss_from_embeddings(embed(model, rows), keys) for one in (late, early)]
    assert values[0] == values[1]
    assert late.masked_share == early.masked_share > 0
    assert early.get_config_dict()["similarity_fct"] == "dot_score"
    assert all(str(Path.home()) not in str(value) for value in early.get_config_dict().values())


def test_rows_find_their_vectors_wherever_they_go(tmp_path: Path, guide: SentenceTransformer) -> None:
    whole = attach_clusters(make_rows(60), guide, n_clusters=2, guide=True)
    other = attach_clusters(make_pairs(40, seed=7), guide, n_clusters=2, guide=True)
    whole.save_to_disk(str(tmp_path / "saved"))
    whole.to_parquet(str(tmp_path / "rows.parquet"))
    steps = export_batches(whole, tmp_path / "stream", batch_size=10, world_size=1, epochs=1)
    assert steps == 6
    ways = [
        load_from_disk(str(tmp_path / "saved")),
        Dataset.from_parquet(str(tmp_path / "rows.parquet")),
        Dataset.from_parquet(str(next((tmp_path / "stream").rglob("*.parquet")))),
        whole.select(range(7, 30)),
        whole.shuffle(seed=1),
        concatenate_datasets([whole, other]),
        whole.train_test_split(0.3, seed=0)["train"],
        DatasetDict({"one": whole, "two": other}),
    ]
    for rows in ways:
        loss = GuidedMultipleNegativesRankingLoss(make_static_model(), guide=rows)
        part = rows["two"] if isinstance(rows, DatasetDict) else rows
        vectors, is_known = loss.guide.take(part.with_format("numpy", columns=[ROW_KEY])[ROW_KEY][:], 2)
        assert is_known.all()
        plain = part.with_format(None)
        for at, column in enumerate(("query", "passage")):
            expected = judge(guide, plain.select_columns([column]))[0]
            torch.testing.assert_close(torch.from_numpy(vectors[at]), expected)


def test_rows_without_vectors_are_said_and_never_masked(
    guide: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    known = attach_clusters(make_rows(20), guide, n_clusters=2, guide=True)
    stranger = attach_clusters(make_pairs(4, seed=3), make_static_model(seed=8), n_clusters=2, guide=True)
    model = make_static_model(seed=1)
    loss = GuidedMultipleNegativesRankingLoss(model, guide=known)
    rows = concatenate_datasets(
        [known.select_columns(["query", "passage", ROW_KEY]), stranger.select_columns(["query", "passage", ROW_KEY])]
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss.compute_loss_from_embeddings(embed(model, rows), torch.tensor(rows[ROW_KEY]))
    assert caplog.text.count("4 of 24 rows of this batch have no vectors") == 1
    with caplog.at_level(logging.WARNING):
        short = rows.select(range(18, 24))
        loss.compute_loss_from_embeddings(embed(model, short), torch.tensor(short[ROW_KEY]))
    assert caplog.text.count("have no vectors") == 1
    with caplog.at_level(logging.WARNING), torch.no_grad():
        loss.compute_loss_from_embeddings(embed(model, rows), torch.tensor(rows[ROW_KEY]))
    assert "They are of an evaluation set: pass guide=DatasetDict" in caplog.text
    guidance = loss.guide_batch(torch.tensor(rows[ROW_KEY]), 2, torch.device("cpu"))
    mask = guidance.mask("query_to_doc")
    assert mask[:20, :20].any() and not mask[20:].any() and not mask[:, 20:].any()


@pytest.mark.parametrize("is_first", [True, False])
def test_rows_joined_with_others_that_have_no_keys_are_refused_before_the_first_step(
    tmp_path: Path, guide: SentenceTransformer, is_first: bool
) -> None:
    guided = attach_clusters(make_rows(40), guide, n_clusters=2, guide=True)
    plain = attach_clusters(make_pairs(1100, seed=3), guide, n_clusters=2)
    joined = concatenate_datasets([guided, plain] if is_first else [plain, guided])
    model, message = make_static_model(seed=1), r"1,100 of 1,140 rows have no row key.*overwrite=True"
    with pytest.raises(ValueError, match=message):
        GuidedMultipleNegativesRankingLoss(model, guide=joined)
    with pytest.raises(ValueError, match=message):
        ClusterBatchSampler(joined, 16, world_size=1)
    assert len(ClusterBatchSampler(joined.filter(lambda key: key is not None, input_columns=[ROW_KEY]), 16)) == 3


def test_training_without_keys_fails_and_evaluation_is_plain(
    guide: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    rows = attach_clusters(make_rows(20), guide, n_clusters=2, guide=True)
    model = make_static_model(seed=1)
    loss = GuidedMultipleNegativesRankingLoss(model, guide=rows)
    for labels in (None, torch.arange(20), torch.rand(20)):
        with pytest.raises(ValueError, match="guide=True"):
            loss.compute_loss_from_embeddings(embed(model, rows), labels)
        with torch.no_grad():
            plain = MultipleNegativesRankingLoss(model).compute_loss_from_embeddings(embed(model, rows), labels)
            assert loss.compute_loss_from_embeddings(embed(model, rows), labels) == plain
    assert caplog.text.count("An evaluation set has no row keys") == 1


def test_a_guide_that_cannot_be_is_refused(tmp_path: Path, guide: SentenceTransformer) -> None:
    model, rows = make_static_model(), make_rows(20)
    with pytest.raises(ValueError, match=r"no row keys.*guide=True"):
        GuidedMultipleNegativesRankingLoss(model, guide=attach_clusters(rows, guide, n_clusters=2))
    with pytest.raises(ValueError, match="holds no vectors"):
        GuidedMultipleNegativesRankingLoss(model, guide=tmp_path)
    labelled = rows.add_column("label", [row % 2 for row in range(20)])
    with pytest.raises(ValueError, match=r"\['label'\] to learn from"):
        attach_clusters(labelled, guide, n_clusters=2, guide=True)
    with pytest.raises(ValueError, match="one column of text"):
        attach_clusters(rows.select_columns(["query"]), guide, n_clusters=2, guide=True)
    guided = attach_clusters(rows, guide, n_clusters=2, guide=True)
    swapped = guided.select_columns(["passage", "query", "cluster", ROW_KEY])
    with pytest.raises(ValueError, match="in order, those of"):
        GuidedMultipleNegativesRankingLoss(model, guide=swapped)
    rewritten = guided.map(lambda row: {"passage": row["passage"].upper()})
    with pytest.raises(ValueError, match="are others than those"):
        GuidedMultipleNegativesRankingLoss(model, guide=rewritten)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"margin": -0.1, "margin_strategy": "relative"}, "margin="),
        ({"margin": 3.0}, "margin="),
        ({"mask": False}, "mask=False"),
        ({"teacher_scale": 50.0}, r"teacher_scale=50 means nothing .* give a teacher_weight"),
        ({"mask": False, "teacher_weight": 0.3, "margin": 0.1}, r"margin=0\.1 .* means nothing with mask=False"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            GuidedMultipleNegativesRankingLoss(model, guide=guided, **options)
    both = concatenate_datasets([guided, attach_clusters(make_pairs(9, seed=4), model, n_clusters=2, guide=True)])
    with pytest.raises(ValueError, match="2 encoders"):
        GuidedMultipleNegativesRankingLoss(model, guide=both)


def test_rows_that_are_trained_on_by_other_columns_than_a_guide_judges_are_refused(
    tmp_path: Path, guide: SentenceTransformer
) -> None:
    guided = attach_clusters(make_rows(40, 2), guide, n_clusters=2, guide=True)
    guided.save_to_disk(str(tmp_path / "out"))
    own = load_from_disk(str(tmp_path / "out"))  # hiding labels must not touch the rows that are trained on
    labels = ["cluster", "false_negative_keys", ROW_KEY]
    for number, (shown, message) in enumerate(
        [
            (["query", "passage", "negative_1"], "in order, those of"),
            (["passage", "query"], "in order, those of"),
            (["query", "passage"], None),
            (["query", "passage", "negative_0", "negative_1"], None),
        ]
    ):
        model = make_static_model()
        loss = GuidedMultipleNegativesRankingLoss(model, guide=own)
        rows = guided.select_columns([*shown, *labels])
        trainer = make_trainer(tmp_path / str(number), rows, model=model, loss=loss, max_steps=1)
        if message is None:
            trainer.train()
        else:
            with pytest.raises(ValueError, match=message):
                trainer.train()


@pytest.mark.parametrize(
    ("margin", "n_batches", "told"),
    [
        (2.0, 150, "has masked none of"),
        (2.0, 50, None),  # a few batches may have none to be masked
        (0.0, 150, None),
        (-2.0, 150, "has masked 100% of"),
        (-2.0, 10, "has masked 100% of"),
    ],
)
def test_a_guide_that_masks_all_or_nothing_is_told_of(
    guide: SentenceTransformer, caplog: pytest.LogCaptureFixture, margin: float, n_batches: int, told: str | None
) -> None:
    model = make_static_model()
    guided = attach_clusters(make_rows(40), guide, n_clusters=2, guide=True)
    loss = GuidedMultipleNegativesRankingLoss(model, guide=guided, margin=margin)
    for _ in range(n_batches):
        loss.compute_loss_from_embeddings(embed(model, guided), torch.tensor(guided[ROW_KEY][:]))
    found = [one for one in caplog.messages if "So far the guide" in one]
    assert [told is not None and told in one for one in found] == ([True] if told else [])


def test_a_model_as_guide_is_refused_with_the_loss_that_takes_one(guide: SentenceTransformer) -> None:
    with pytest.raises(TypeError, match=r"not SentenceTransformer; for a model as guide.*GISTEmbedLoss"):
        GuidedMultipleNegativesRankingLoss(make_static_model(), guide=guide)  # type: ignore[arg-type]


def test_rows_whose_negative_is_their_own_positive_are_counted(
    guide: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make_rows(40, 1).map(
        lambda row, at: {"negative_0": row["passage"] if at < 3 else row["negative_0"]}, with_indices=True
    )
    attach_clusters(rows, guide, n_clusters=2)
    assert "3 of the 40 rows have their own positive as an explicit negative too" in caplog.text


def test_rows_attached_anew_lose_their_old_keys(guide: SentenceTransformer) -> None:
    guided = attach_clusters(make_rows(20), guide, n_clusters=2, guide=True)
    with pytest.raises(ValueError, match="overwrite=True"):
        attach_clusters(guided, guide, n_clusters=2)
    again = attach_clusters(guided, make_static_model(seed=9), n_clusters=2, guide=True, overwrite=True)
    assert again[ROW_KEY][:] != guided[ROW_KEY][:]
    plain = attach_clusters(guided, guide, n_clusters=2, overwrite=True)
    assert plain.column_names == ["query", "passage", "cluster", "false_negative_keys"]


@pytest.mark.parametrize("sampler", ["cluster", "batch_sampler"])
@pytest.mark.parametrize("around", [None, MatryoshkaLoss])
def test_a_stock_trainer_trains_with_it(tmp_path: Path, guide: SentenceTransformer, sampler: str, around: Any) -> None:
    rows = attach_clusters(make_rows(96), guide, n_clusters=2, guide=True)
    model = make_static_model(seed=1)
    own = GuidedMultipleNegativesRankingLoss(model, guide=rows)
    loss = own if around is None else around(model, own, matryoshka_dims=[16, 8])
    options = {} if sampler == "cluster" else {"batch_sampler": sampler}
    train = rows if sampler == "cluster" else rows.select_columns(["query", "passage", ROW_KEY])
    evaluated = make_pairs(20, seed=4)
    trainer = make_trainer(
        tmp_path, train, model=model, loss=loss, eval_dataset=evaluated, eval_strategy="epoch", **options
    )
    trainer.train()
    assert own.masked_share > 0
    assert trainer.state.log_history[0]["eval_loss"] > 0


@pytest.mark.parametrize("around", [None, MatryoshkaLoss])
def test_what_was_masked_before_a_resume_counts_too(tmp_path: Path, guide: SentenceTransformer, around: Any) -> None:
    rows = attach_clusters(make_rows(96), guide, n_clusters=2, guide=True)

    def train(resume: bool) -> list[int]:
        model = make_static_model(seed=1)
        own = GuidedMultipleNegativesRankingLoss(model, guide=rows)
        loss = own if around is None else around(model, own, matryoshka_dims=[16, 8])
        trainer = make_trainer(tmp_path, rows, model=model, loss=loss, save_strategy="steps", save_steps=4)
        trainer.train(resume_from_checkpoint=resume)
        return own.mask_counts.values

    whole = train(False)
    shutil.rmtree(tmp_path / "out" / "checkpoint-6")
    assert train(True) == whole


def test_it_works_within_the_sparse_and_the_multi_vector_trainers_losses(
    tmp_path: Path, guide: SentenceTransformer
) -> None:
    from sentence_transformers.sparse_encoder.losses import SpladeLoss
    from transformers import BertConfig, BertForMaskedLM

    rows = attach_clusters(make_rows(16, 1), guide, n_clusters=2, guide=True)
    make_tiny_bert(tmp_path / "bert", 0.0)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig.from_pretrained(tmp_path / "bert")).save_pretrained(tmp_path / "bert")
    model = SparseEncoder(str(tmp_path / "bert"), device="cpu")
    own = GuidedMultipleNegativesRankingLoss(model, guide=rows, similarity_fct=dot_score, scale=1.0)
    loss = SpladeLoss(model, own, document_regularizer_weight=0.0, query_regularizer_weight=0.0)
    features = [model.preprocess(rows[name][:]) for name in ("query", "passage", "negative_0")]
    value = loss(features, torch.tensor(rows[ROW_KEY]))
    assert all(torch.isfinite(one) for one in value.values())
    assert own.masked_share > 0
    value["base_loss"].backward()
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in model.parameters())


def test_margins_are_of_one_family(guide: SentenceTransformer) -> None:
    rows = attach_clusters(make_rows(40), guide, n_clusters=2, guide=True)
    model, keys = make_static_model(seed=1), torch.tensor(rows[ROW_KEY])
    shares = []
    for margin in (0.4, 0.1, 0.0, -0.1, -0.4):
        loss = GuidedMultipleNegativesRankingLoss(model, guide=rows, margin=margin)
        loss.compute_loss_from_embeddings(embed(model, rows), keys)
        shares.append(loss.masked_share)
    assert all(low <= high for low, high in itertools.pairwise(shares)) and shares[0] < shares[-1]


@pytest.mark.parametrize("n_negatives", [0, 2])
def test_the_multi_vector_losses_mask_what_the_dense_one_does(
    tmp_path: Path, guide: SentenceTransformer, n_negatives: int
) -> None:
    model = MultiVectorEncoder(str(make_tiny_bert(tmp_path / "bert", 0.0)), device="cpu").eval()
    rows = attach_clusters(make_rows(12, n_negatives), guide, n_clusters=2, guide=True)
    columns = rows.column_names[: 2 + n_negatives]
    keys = torch.tensor(rows[ROW_KEY])
    dense = GuidedMultipleNegativesRankingLoss(make_static_model(), guide=rows)
    mask = dense.guide_batch(keys, len(columns), torch.device("cpu")).mask("query_to_doc")
    assert mask.any()

    def score(*tensors: torch.Tensor, **masks: torch.Tensor) -> torch.Tensor:
        scores = colbert_scores(*tensors, **masks)
        seen.append(scores)
        return scores

    values = []
    for kind in (GuidedMultiVectorMultipleNegativesRankingLoss, CachedGuidedMultiVectorMultipleNegativesRankingLoss):
        seen: list[torch.Tensor] = []
        chunks = {} if "Cached" not in kind.__name__ else {"mini_batch_size": 5}
        loss = kind(model, guide=rows, similarity_fct=score, **chunks)
        model.zero_grad()
        value = loss(
            [model.preprocess(rows[name][:], task="query" if name == "query" else "document") for name in columns],
            keys,
        )
        value.backward()
        logits = (
            torch.cat(seen)
            .detach()
            .reshape(12, 12, -1)
            .masked_fill(mask.reshape(12, -1, 12).transpose(1, 2), -torch.inf)
        )
        expected = (logits.flatten(1).logsumexp(1) - logits[range(12), range(12), 0]).mean()
        torch.testing.assert_close(value.detach(), expected)
        assert loss.masked_share == dense_share(mask)
        values.append([value.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)])
    torch.testing.assert_close(*values)
    taught = GuidedMultiVectorMultipleNegativesRankingLoss(model, guide=rows, teacher_weight=0.5)
    features = [model.preprocess(rows[name][:], task="query" if name == "query" else "document") for name in columns]
    assert taught(features, keys) > value
    with pytest.raises(ValueError, match="no scores to be taught"):
        CachedGuidedMultiVectorMultipleNegativesRankingLoss(model, guide=rows, teacher_weight=0.5)


def dense_share(mask: torch.Tensor) -> float:
    return mask.sum().item() / (mask.numel() - len(mask))


def test_a_model_that_embeds_nothing_is_refused(tiny_bert: Path) -> None:
    model = CrossEncoder(str(tiny_bert), num_labels=1)
    rows = attach_clusters(make_pairs(30), make_static_model(), n_clusters=2, guide=True)
    with pytest.raises(TypeError, match="a CrossEncoder makes none; take a loss"):
        GuidedMultipleNegativesRankingLoss(model, guide=rows)


def test_a_model_of_another_kind_of_vectors_is_refused_with_the_loss_that_takes_it(tiny_bert: Path) -> None:
    rows = attach_clusters(make_pairs(30), make_static_model(), n_clusters=2, guide=True)
    with pytest.raises(TypeError, match=r"several vectors of a text.*take GuidedMultiVector"):
        GuidedMultipleNegativesRankingLoss(MultiVectorEncoder(str(tiny_bert)), guide=rows)
    with pytest.raises(TypeError, match=r"gives one vector of a text.*take GuidedMultipleNegatives"):
        GuidedMultiVectorMultipleNegativesRankingLoss(make_static_model(), guide=rows)


def test_rows_of_which_the_guide_has_no_vector_are_refused_before_the_first_step(
    guide: SentenceTransformer, tmp_path: Path
) -> None:
    rows, other = (
        attach_clusters(make_rows(40), one, n_clusters=2, guide=True) for one in (guide, make_static_model())
    )
    model = make_static_model()
    loss = GuidedMultipleNegativesRankingLoss(model, guide=rows)
    with pytest.raises(
        ValueError, match="has vectors of none of 40 rows that were looked up: their row keys are of another"
    ):
        make_trainer(tmp_path, other, model=model, loss=loss).train()
