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


@dataclass(frozen=True)
class ConditionedImitation(Imitation):
    """The same where a prompt has several answers, each under a line of its own.

    Args:
        shared_prefix: answers to one prompt that stand beside each other in the file are one sample, branches of one row.
    """

    shared_prefix: bool

    @property
    def rows_shared(self) -> bool:
        """As the setting says."""
        return self.shared_prefix

    @property
    def answers_grouped(self) -> bool:
        """As the setting says."""
        return self.shared_prefix
