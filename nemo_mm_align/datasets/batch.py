"""One micro batch, the same tensors on every rank of a model replica.

Shapes: B rows, S positions per row, N distinct images, C channels, K image occurrences, Q sequences of the micro batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

PADDING_SEGMENT = -1
PREFIX_SEGMENT = 0


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right.

    `segment_ids_BS` says how a row is divided: -1 padding, 0 a prefix that all branches see, k >= 1 branch k. A plain row
    is branch 1 from start to end. Each branch is one *sequence*; sequences are numbered row by row, branch by branch (for
    DPO 2 i is the chosen, 2 i + 1 the rejected answer of pair i).
    """

    input_ids_BS: Tensor
    labels_BS: Tensor
    """Next token at every position, -100 where no loss is wanted."""
    position_ids_BS: Tensor
    """Rotary positions; they restart at each branch of a shared prefix."""
    segment_ids_BS: Tensor
    images_NCHW: Tensor | None
    """Distinct images, normalised; ``None`` without images, or on stages that need none."""
    image_index_K: Tensor | None
    """For each image occurrence in row order, its place in `images_NCHW`."""
    sample_ids: tuple[str, ...]
    reference_log_probs_Q: Tensor | None = None

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            item.name: value.to(device, non_blocking=non_blocking)
            for item in fields(self)
            if isinstance(value := getattr(self, item.name), Tensor)
        }
        return replace(self, **moved)

    @property
    def num_sequences(self) -> int:
        """Sequences of the micro batch: branches over all rows."""
        return int(self._branches_B().sum())

    @property
    def num_answer_tokens(self) -> int:
        """Positions with a loss."""
        return int((self.labels_BS >= 0).sum())

    def _branches_B(self) -> Tensor:
        return self.segment_ids_BS.amax(dim=1).clamp(min=0)

    def sequence_ids_BS(self) -> Tensor:
        """For every position the sequence it belongs to; -1 for padding and prefixes."""
        branches_B = self._branches_B()
        first_B1 = (branches_B.cumsum(0) - branches_B).unsqueeze(1)
        ids_BS = first_B1 + self.segment_ids_BS - 1
        return ids_BS.masked_fill(self.segment_ids_BS <= PREFIX_SEGMENT, -1)

    def sum_per_sequence(self, values_BS: Tensor) -> Tensor:
        """Add up per-token values, [B, S], within each sequence: [Q]."""
        ids_BS = self.sequence_ids_BS()
        inside = ids_BS >= 0
        return values_BS.new_zeros(self.num_sequences).index_add(0, ids_BS[inside], values_BS[inside])
