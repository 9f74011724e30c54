"""Losses that stop at a margin, or draw log-ratios to values of their own.

Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, PairLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Hinge(PairLoss):
    """max(0, 1 - beta d): nothing is learned from a pair whose margin has reached 1 / beta (SLiC-HF, Zhao et al.)."""

    name = "hinge"
    source = "arXiv 2305.10425"

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return (1 - self.beta * ratios.delta_P).relu()


@dataclass(frozen=True)
class Ipo(PairLoss):
    """(d - 1 / (2 beta))^2 with d the difference of means over tokens: the margin is drawn to a value and does not grow beyond.

    Equation 17 of Azar et al., where beta is tau; means as TRL computes it, which says that the authors confirmed them.
    """

    name = "ipo"
    source = "arXiv 2310.12036"
    per_token = True

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return (ratios.chosen_P - ratios.rejected_P - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class SppoHard(PairLoss):
    """(r_chosen - 1 / (2 beta))^2 + (r_rejected + 1 / (2 beta))^2: each answer's log-ratio is drawn to a value.

    Wu et al., equation 4.7 with the chosen answer winning for certain; in the paper 1 / beta is eta.
    """

    name = "sppo_hard"
    source = "arXiv 2405.00675"

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        goal = 0.5 / self.beta
        return (ratios.chosen_P - goal).square() + (ratios.rejected_P + goal).square()
