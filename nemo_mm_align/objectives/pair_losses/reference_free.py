"""Losses on the policy's own log-probs: no reference is computed, kept or cached.

Log-probs are means over an answer's tokens. Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.objectives.pair_losses.logistic import check_smoothing, smoothed
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, PairLoss

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Simpo(PairLoss):
    """-log sigmoid(beta (l_chosen - l_rejected) - gamma), l the mean log-prob of an answer's tokens; smoothed as `Sigmoid`.

    Equation 6 of Meng, Xia and Chen; the names are those of TRL's CPO, whose ``simpo_gamma`` is not divided by beta either.
    """

    name = "simpo"
    source = "arXiv 2405.14734"
    per_token = True
    needs_reference = False

    beta: float
    simpo_gamma: float
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing, self.name)

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return smoothed(self.beta * ratios.delta_P - self.simpo_gamma, self.label_smoothing)


@dataclass(frozen=True)
class OddsRatio(PairLoss):
    """-beta log sigmoid(log odds(chosen) - log odds(rejected)), odds(y) = p / (1 - p) with p = exp(mean log-prob of its tokens).

    Equation 7 of Hong, Lee and Thorne (ORPO), times the weight that is lambda there and beta in TRL. Computed in fp32 at least.
    """

    name = "orpo"
    source = "arXiv 2403.07691"
    per_token = True
    needs_reference = False

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return self.beta * smoothed(log_odds_ratio(ratios), 0.0)


def log_odds_ratio(ratios: PairLogRatios) -> Tensor:
    """Return log(odds(chosen) / odds(rejected)), [P], of mean log-probs."""

    def log_complement(log_probs_P: Tensor) -> Tensor:
        """log(1 - p); p = 1 counts as the largest number below it."""
        import torch

        smallest = torch.finfo(log_probs_P.dtype).eps
        return (-log_probs_P.clamp(max=-smallest).expm1()).log()

    wide = PairLogRatios(_at_least_fp32(ratios.chosen_P), _at_least_fp32(ratios.rejected_P))
    return wide.delta_P - (log_complement(wide.chosen_P) - log_complement(wide.rejected_P))


def _at_least_fp32(values_P: Tensor) -> Tensor:
    return values_P if values_P.element_size() > 4 else values_P.float()
