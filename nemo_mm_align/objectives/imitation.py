"""Likelihood of given answers.

Shapes: B rows, S positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading

if TYPE_CHECKING:
    from nemo_mm_align.datasets.batch import Batch


@dataclass(frozen=True)
class Imitation(Objective):
    """Mean negative log-likelihood of answer tokens; the step divides by their number."""

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Sum of -log p over answer tokens."""
        loss = reading.token_losses_BS.sum()
        count = (batch.labels_BS >= 0).sum().int()
        return LossOutput(loss, count, {"loss": (loss.detach().clone(), count.float())})
