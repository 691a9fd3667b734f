"""In-batch negatives losses whose false negatives are masked by stored vectors; GIST without a second forward pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import all_gather, all_gather_with_grad, get_rank, similarity_fct_name
from torch import Tensor, nn

from st_cluster_batches.clusters.guide import GuideVectors
from st_cluster_batches.clusters.vectors import PairVectors
from st_cluster_batches.losses.guidance import (
    DIRECTIONS,
    TEACHER_SCALE,
    Direction,
    Guidance,
    Margin,
    MarginStrategy,
    MaskedSimilarity,
    check_embedding,
    check_guidance,
)
from st_cluster_batches.losses.mask_counts import MaskCounts
from st_cluster_batches.row_keys import are_row_keys, read_marks

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

_CITATION = """
@misc{solatorio2024gistembed,
    title={GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning},
    author={Aivin V. Solatorio},
    year={2024},
    eprint={2402.16829},
    archivePrefix={arXiv},
    primaryClass={cs.LG}
}
"""


class Guided(nn.Module):
    """What the guided losses add to the stock ones: vectors by row key, masks, soft labels, and what was masked.

    Args:
        guide: Rows labelled with `attach_clusters(..., guide=True)`, a folder with their vectors, or `PairVectors`.
            For rows whose keys are marked nothing is masked: `tuned=` marks those of sources tuned without a mask.
        margin: A negative is masked where the guide finds it more similar to the query than the positive by this.
        margin_strategy: Whether the margin is added (`absolute`) or multiplied (`relative`).
        mask: Whether to mask; without, the guide only teaches.
        teacher_weight: Weight of the cross-entropy to the guide's softmax over the candidates that are left.
        teacher_scale: Inverse temperature of that softmax.
        stock: Arguments of the stock loss.
    """

    is_of_many = False  # whether texts have several vectors
    # What the stock losses bring.
    scale: float
    similarity_fct: Any
    gather_across_devices: bool

    def __init__(
        self,
        *stock: Any,
        guide: Dataset | DatasetDict | PairVectors | GuideVectors | str | Path,
        margin: float = 0.0,
        margin_strategy: MarginStrategy = "absolute",
        mask: bool = True,
        teacher_weight: float = 0.0,
        teacher_scale: float = TEACHER_SCALE,
        **options: Any,
    ) -> None:
        check_embedding(stock[0] if stock else options.get("model"), self.is_of_many)
        super().__init__(*stock, **options)
        self.margin = Margin(margin, margin_strategy)
        check_guidance(self.margin, mask, teacher_weight, teacher_scale)
        self.mask = mask
        self.teacher_weight = teacher_weight
        self.teacher_scale = teacher_scale
        self.guide = guide if isinstance(guide, GuideVectors) else GuideVectors.open(guide)
        self.mask_counts = MaskCounts()
        self._warned: set[str] = set()

    @property
    def masked_share(self) -> float | None:
        """Share of the documents in training batches, positives aside, that were masked; None before the first."""
        return self.mask_counts.masked_share

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings for the model card, without any path."""
        similarity = self._similarity().similarity_fct
        return {
            **super().get_config_dict(),  # type: ignore[misc]  # of the stock loss
            "similarity_fct": similarity_fct_name(similarity),
            "guide": self.guide.encoder,
            "margin": self.margin.margin,
            "margin_strategy": self.margin.strategy,
            "mask": self.mask,
            "teacher_weight": self.teacher_weight,
            "teacher_scale": self.teacher_scale,
        }

    def describe(self) -> list[str]:
        """Return lines of Markdown that say what the guide did in training."""
        share, margin = self.masked_share, self.margin
        unmasked = self.mask_counts.unmasked_rows_share
        left = f"; none for {unmasked:.0%} of the queries, of sources tuned without a mask" if unmasked else ""
        seen = "has seen no batch" if share is None else f"masked {share:.2%} of the in-batch negatives"
        masked = seen if self.mask else "no negative was masked"
        taught = f"; its soft labels had weight {self.teacher_weight:g}" if self.teacher_weight else ""
        guide = f"The guide, `{self.guide.encoder}`"
        return [f"{guide}, {masked} ({margin.strategy} margin {margin.margin:g}{left}){taught}.", ""]

    @property
    def citation(self) -> str:
        """The papers of the stock loss and of masking by a guide."""
        return str(super().citation) + _CITATION  # type: ignore[misc]  # of the stock loss

    def _similarity(self) -> MaskedSimilarity:
        # Asked for at every step: users set `loss.similarity_fct` after the loss has been made.
        similarity = self.similarity_fct
        if not isinstance(similarity, MaskedSimilarity):
            similarity = MaskedSimilarity(similarity)
            self.similarity_fct = similarity
        return similarity

    @contextmanager
    def masking(self, masks: Iterator[Tensor], keeps_scores: bool = False) -> Iterator[list[Tensor]]:
        """Let the stock loss see masked similarities, in the order in which it asks for them.

        Yields:
            What it has seen, if that is to be kept.
        """
        similarity = self._similarity()
        scores: list[Tensor] = []
        similarity.masks, similarity.scores = masks, scores if keeps_scores else None
        try:
            yield scores
            if next(masks, None) is not None:
                raise RuntimeError("The stock loss has not asked for all similarities that the guide has masks for")
        finally:
            similarity.masks = similarity.scores = None

    def guide_batch(self, labels: Tensor | None, n_columns: int, device: torch.device) -> Guidance | None:
        """Look up the vectors of a batch; None if its rows have no keys, as those of an evaluation set may."""
        is_training = torch.is_grad_enabled()
        keys = None if labels is None else labels.detach().cpu()
        if labels is None or keys is None or keys.dim() != 1 or not are_row_keys(keys.numpy()).any():
            if is_training:
                raise ValueError(
                    f"{type(self).__name__} gets no row keys from the training data"
                    f"{'' if labels is None else ', but other labels'}: add them by attach_clusters(dataset, encoder, "
                    "guide=True), and train on what it returns, with its column 'label' shown"
                )
            self._warn_once(
                "keys", "An evaluation set has no row keys; its loss is that of the stock loss, without a mask"
            )
            return None
        n_rows, offset = len(keys), 0
        if self.gather_across_devices:
            offset = get_rank() * n_rows
            keys = all_gather(labels.to(device)).cpu()
        vectors, is_known = self.guide.take(keys.numpy(), n_columns)
        if not is_known.all():
            mend = "They are of an evaluation set: pass guide=DatasetDict({'train': ..., 'eval': ...}), or a folder"
            if is_training:
                self.guide.refuse_more_columns(keys.numpy()[~is_known], n_columns)
                mend = "Pass all that is trained on, attached with guide=True: guide=train"
            self._warn_once(
                f"vectors {is_training}",
                f"{(~is_known).sum()} of {len(is_known)} rows of this batch have no vectors of the guide "
                f"{self.guide.encoder!r}; none of their negatives is masked, nor are they for others. {mend}",
            )
        return Guidance(
            [torch.from_numpy(one).to(device) for one in vectors],
            torch.from_numpy(is_known).to(device),
            torch.arange(offset, offset + n_rows, device=device),
            self.margin,
            torch.from_numpy(~read_marks(keys.numpy())[1]).to(device),
        )

    def make_mask(self, guidance: Guidance, direction: Direction, begin: int, end: int) -> Tensor:
        """Return the (rows, candidates) mask of some rows, and count what it masks."""
        mask = guidance.mask(direction, begin, end)
        if not self.mask:
            mask.zero_()
        if direction == "query_to_doc" and torch.is_grad_enabled():
            is_time = self.mask_counts.add(mask, guidance.is_masking[guidance.rows[begin:end]])
            if is_time and self.mask and (effect := self.mask_counts.explain_extremes()):
                margin = f"margin={self.margin.margin:g} (margin_strategy={self.margin.strategy!r})"
                self._warn_once("masks", f"So far the guide {self.guide.encoder!r}, with {margin}, {effect}")
        return mask

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            logger.warning(message)


class GuidedMultipleNegativesRankingLoss(Guided, MultipleNegativesRankingLoss):  # type: ignore[misc]
    """The in-batch negatives loss, with false negatives masked by vectors that were stored before training.

    Negative j of query i is taken out of the softmax where `sim(q_i, p_j) > sim(q_i, p_i) + margin` under the guide,
    or `> sim(q_i, p_i) - (1 - margin) * |sim(q_i, p_i)|` if the margin is relative. Explicit negatives are judged by
    their own vectors, and the other `directions` likewise. The mask is GISTEmbed's (arXiv 2402.16829), where the guide
    embeds every batch anew; here attaching clusters has embedded all rows. Works for static, dense and Router models,
    within SpladeLoss (`similarity_fct=dot_score`) and MatryoshkaLoss, and with any batch sampler; a stock one takes
    label columns for texts, so leave them out: `train.select_columns(["query", "passage", "label"])`.

    Args:
        model: The model to train.
        guide: See `Guided`; the other arguments too, and those of MultipleNegativesRankingLoss.

    Raises:
        ValueError: If the guide has no vectors, or an option has no meaning.
    """

    def compute_loss_from_embeddings(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """Return the loss of a batch, given the (B, d) embeddings of each column and its row keys."""
        guidance = self.guide_batch(labels, len(embeddings), embeddings[0].device)
        loss: Tensor
        if guidance is None:
            loss = super().compute_loss_from_embeddings(embeddings, labels)
            return loss
        masks = _order_masks(self, guidance, len(embeddings[0]))
        with self.masking(masks, bool(self.teacher_weight)) as scores:
            loss = super().compute_loss_from_embeddings(embeddings, labels)
        if self.teacher_weight:
            taught = guidance.teach(scores[0] * self.scale, self.teacher_scale)
            loss = loss + self.teacher_weight * taught.mean()
        return loss


class CachedGuidedMultipleNegativesRankingLoss(Guided, CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """The guided loss with gradient caching, for batches that do not fit into memory; equal to the plain one.

    Args:
        model: The model to train; not a static one, whose batches always fit.
        guide: See `Guided`; the other arguments too, and those of CachedMultipleNegativesRankingLoss.
    """

    mini_batch_size: int

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Return the loss of a batch, given the embeddings of each column in mini-batches and its row keys."""
        guidance = self.guide_batch(labels, len(reps), reps[0][0].device)
        loss: Tensor
        if guidance is None:
            loss = super().calculate_loss(reps, labels, with_backward=with_backward)
            return loss
        with self.masking(_order_masks(self, guidance, self.mini_batch_size)):
            loss = super().calculate_loss(reps, labels, with_backward=with_backward)
        if self.teacher_weight:
            loss = loss + self.teacher_weight * self._teach(reps, guidance, with_backward)
        return loss

    def _teach(self, reps: list[list[Tensor]], guidance: Guidance, with_backward: bool) -> Tensor:
        """Add the soft labels, by mini-batches as the stock loss does, so that the graph of one is freed at once."""
        total: Tensor = torch.zeros((), device=reps[0][0].device)
        score, n_rows = self._similarity().similarity_fct, len(guidance.rows)
        queries, columns = torch.cat(reps[0]), [torch.cat(column) for column in reps[1:]]
        if self.gather_across_devices:
            columns = [all_gather_with_grad(column) for column in columns]
        documents = torch.cat(columns)
        for begin in range(0, n_rows, self.mini_batch_size):
            end = min(begin + self.mini_batch_size, n_rows)
            logits = score(queries[begin:end], documents) * self.scale
            if self.mask:
                logits = logits.masked_fill(guidance.mask("query_to_doc", begin, end), -torch.inf)
            loss = guidance.teach(logits, self.teacher_scale, begin, end).sum() / n_rows
            if with_backward:
                (self.teacher_weight * loss).backward()  # type: ignore[no-untyped-call]
                loss = loss.detach()
            total = total + loss
        return total


def _order_masks(loss: Any, guidance: Guidance, rows_at_once: int) -> Iterator[Tensor]:
    """Yield masks in the order and the shape in which a stock loss asks for similarities."""
    n_rows = len(guidance.rows)
    for begin in range(0, n_rows, rows_at_once):
        for direction in DIRECTIONS:
            if direction in loss.directions:
                mask = loss.make_mask(guidance, direction, begin, min(begin + rows_at_once, n_rows))
                # The stock loss computes these two from the candidates' side, and turns them.
                yield mask.T if direction.startswith("doc") else mask
