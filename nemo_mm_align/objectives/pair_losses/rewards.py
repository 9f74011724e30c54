"""Losses that know by how much the chosen answer is better: margins m of given rewards, scaled and weighted.

Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.objectives.pair_losses.logistic import smoothed
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, PairLoss, known

if TYPE_CHECKING:
    from torch import Tensor

_MARGINS = "margins of rewards"


def bernoulli_divergence(of_P: Tensor, to_P: Tensor) -> Tensor:
    """Return KL(Bernoulli(sigmoid(of)) || Bernoulli(sigmoid(to))) from log-odds, nats."""
    from torch.nn.functional import logsigmoid

    wins_P = of_P.sigmoid() * (logsigmoid(of_P) - logsigmoid(to_P))
    return wins_P + (-of_P).sigmoid() * (logsigmoid(-of_P) - logsigmoid(-to_P))


@dataclass(frozen=True)
class RpoSquared(PairLoss):
    """(beta d - m)^2: the margin of implicit rewards becomes that of the given ones (Nemotron-4 340B).

    Definitions of the three are NeMo-Aligner's (``preference_loss``), where m is
    ``gt_reward_scale`` times the difference of rewards.
    """

    name = "rpo_sq"
    source = "arXiv 2406.11704"
    needs_margins = True

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return (self.beta * ratios.delta_P - known(ratios.margins_P, _MARGINS)).square()


@dataclass(frozen=True)
class RpoBackward(PairLoss):
    """KL(Bernoulli(sigmoid(m)) || Bernoulli(sigmoid(beta d))): `Sigmoid` with labels of the pairs' own, less their entropy."""

    name = "rpo_bwd_kl"
    source = "arXiv 2406.11704"
    needs_margins = True

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return bernoulli_divergence(known(ratios.margins_P, _MARGINS), self.beta * ratios.delta_P)


@dataclass(frozen=True)
class RpoForward(PairLoss):
    """KL(Bernoulli(sigmoid(beta d)) || Bernoulli(sigmoid(m))): the same with the policy's probabilities as weights."""

    name = "rpo_fwd_kl"
    source = "arXiv 2406.11704"
    needs_margins = True

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return bernoulli_divergence(self.beta * ratios.delta_P, known(ratios.margins_P, _MARGINS))


@dataclass(frozen=True)
class Modpo(PairLoss):
    """-log sigmoid((beta d - m) / w): pairs say which answer is better in one objective, m what all others say of it.

    Zhou et al.: w is the weight of the pairs' own objective, m = w_others . (r_others(chosen) - r_others(rejected)). What
    is learned maximises w times the pairs' reward plus m's.
    """

    name = "modpo"
    source = "arXiv 2310.03708"
    needs_margins = True

    beta: float
    preference_weight: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        distance_P = self.beta * ratios.delta_P - known(ratios.margins_P, _MARGINS)
        return smoothed(distance_P / self.preference_weight, 0.0)
