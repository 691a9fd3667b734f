"""How much a guide masks in training, and whether that is all or nothing."""

from __future__ import annotations

import torch
from torch import Tensor

# Masks of (mini-)batches after which a guide that masks most negatives is warned of, and one that masks none: a few
# batches may have none to be masked.
_JUDGED_SOON, _JUDGED = 10, 100
_MOST_MASKED = 0.5


class MaskCounts:
    """Counts what masks hide, on the device of the masks, so that no step waits for it."""

    def __init__(self) -> None:
        # Masked documents, all but the positives; rows for which nothing is to be masked, all rows.
        self._counts = torch.zeros(4, dtype=torch.int64)  # Apple GPUs (MPS) have no float64
        self._n_masks = 0

    def add(self, mask: Tensor, is_masking: Tensor) -> bool:
        """Count a mask.

        Args:
            mask: (rows, candidates) whether each candidate is masked; one of each row is its positive.
            is_masking: (rows,) whether anything is to be masked for a row.

        Returns:
            Whether this is the time to look at what was masked.
        """
        if self._counts.device != mask.device:
            self._counts = self._counts.to(mask.device)
        self._counts[0] += mask.sum()
        self._counts[1] += mask.numel() - len(mask)
        self._counts[2] += (~is_masking).sum()
        self._counts[3] += len(mask)
        self._n_masks += 1
        return self._n_masks in (_JUDGED_SOON, _JUDGED)

    @property
    def values(self) -> list[int]:
        """All that was counted, as a checkpoint keeps it."""
        return self._counts.tolist()

    @values.setter
    def values(self, values: list[int]) -> None:
        self._counts = torch.tensor(values, dtype=torch.int64)

    @property
    def masked_share(self) -> float | None:
        """Share of the documents, positives aside, that were masked; None before the first."""
        n_masked, n_negatives, *_ = self._counts.tolist()
        return n_masked / n_negatives if n_negatives else None

    @property
    def unmasked_rows_share(self) -> float:
        """Share of the rows for which nothing was to be masked."""
        n_left, n_rows = self._counts[2:].tolist()
        return n_left / n_rows if n_rows else 0.0

    def explain_extremes(self) -> str | None:
        """Say what is wrong with a guide that masks nothing, or leaves little to learn from; None where nothing is."""
        n_masked, n_negatives, n_left, n_rows = self._counts.tolist()
        if n_left == n_rows or 0 < n_masked <= _MOST_MASKED * n_negatives:
            return None
        if not n_masked and self._n_masks < _JUDGED:
            return None
        masked, margin = f"none of {n_negatives:,.0f}", "smaller margin masks more"
        if n_masked:
            masked, margin = f"{n_masked / n_negatives:.0%} of {n_negatives:,.0f}", "larger margin masks fewer"
        remedy = "`st-cluster-batches inspect` shows what each margin would mask"
        return f"has masked {masked} negatives; a {margin}. {remedy}"
