"""Losses on the log-odds that the chosen answer wins: beta d, with d the difference of both answers' log-ratios.

Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, PairLoss

if TYPE_CHECKING:
    from torch import Tensor


def smoothed(log_odds_P: Tensor, share: float) -> Tensor:
    """Return -(1 - share) log sigmoid(log_odds) - share log sigmoid(-log_odds)."""
    import torch.nn.functional as F

    right_P = -F.logsigmoid(log_odds_P)
    return (1 - share) * right_P - share * F.logsigmoid(-log_odds_P) if share else right_P


def check_smoothing(share: float, loss: str) -> None:
    """Raise `UserError` for a share of wrong labels with which a loss prefers nothing, or the rejected answer."""
    if not 0 <= share < 0.5:
        raise UserError(
            f"recipe.label_smoothing={share:g}: {loss} takes the share of pairs whose labels are wrong, from 0 to below 0.5."
        )


@dataclass(frozen=True)
class Sigmoid(PairLoss):
    """-(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d), e the label smoothing: DPO, and conservative DPO for e > 0.

    Equation 7 of Rafailov et al.; the smoothing is Mitchell's (https://ericmitchell.ai/cdpo.pdf), as TRL 0.24 has it and releases
    from 1.0 on do not. It presumes that a share e of the labels is wrong, and draws the probability that the chosen answer wins
    to 1 - e.
    """

    name = "sigmoid"
    source = "arXiv 2305.18290"

    beta: float
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing, self.name)

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return smoothed(self.beta * ratios.chosen_P - self.beta * ratios.rejected_P, self.label_smoothing)


@dataclass(frozen=True)
class SigmoidNorm(PairLoss):
    """-log sigmoid(beta (r_chosen / n_chosen - r_rejected / n_rejected)), n the tokens of an answer: length-normalised DPO.

    As Tulu 3 is trained (Lambert et al.). No answer gains by being long or short; beta is larger than with sums, by about
    the length of an answer.
    """

    name = "sigmoid_norm"
    source = "arXiv 2411.15124"
    per_token = True

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return smoothed(self.beta * ratios.delta_P, 0.0)


@dataclass(frozen=True)
class Robust(PairLoss):
    """(-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)) / (1 - 2 e), e the share of flipped labels.

    Ray Chowdhury, Kini and Natarajan: in expectation over flips the loss of the labels without any. Unlike
    `Sigmoid`'s smoothing it is unbiased, and it has no lower bound.
    """

    name = "robust"
    source = "arXiv 2403.00409"

    beta: float
    label_smoothing: float

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing, self.name)

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        import torch.nn.functional as F

        log_odds_P, share = self.beta * ratios.delta_P, self.label_smoothing
        return (-(1 - share) * F.logsigmoid(log_odds_P) + share * F.logsigmoid(-log_odds_P)) / (1 - 2 * share)


@dataclass(frozen=True)
class ExoPair(PairLoss):
    """KL(Bernoulli(sigmoid(beta d)) || Bernoulli(1 - e)), e the label smoothing, above 0.

    Equation 16 of Ji et al.: the reverse KL, which seeks the mode where `Sigmoid` covers the mass. The paper takes e = 0.001.
    """

    name = "exo_pair"
    source = "arXiv 2402.00856"

    beta: float
    label_smoothing: float

    def __post_init__(self) -> None:
        check_smoothing(self.label_smoothing, self.name)
        if not self.label_smoothing:
            raise UserError("recipe.label_smoothing=0: exo_pair needs one above 0; its paper takes 1.0e-3.")

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        import math

        import torch.nn.functional as F

        log_odds_P = self.beta * ratios.delta_P
        wins_P, loses_P = log_odds_P.sigmoid(), (-log_odds_P).sigmoid()
        won_P = F.logsigmoid(log_odds_P) - math.log1p(-self.label_smoothing)
        lost_P = F.logsigmoid(-log_odds_P) - math.log(self.label_smoothing)
        return wins_P * won_P + loses_P * lost_P


@dataclass(frozen=True)
class Discopop(PairLoss):
    """(1 - m) (-log sigmoid(x)) + m exp(-x) with x = beta d and m = sigmoid(x / tau): a loss that a search found.

    Equation 5 of Lu et al. (log-ratio modulated loss), which recommends tau = 0.05.
    """

    name = "discopop"
    source = "arXiv 2406.08414"

    beta: float
    discopop_tau: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        from torch.nn.functional import logsigmoid

        log_odds_P = self.beta * ratios.delta_P
        modulated_P = log_odds_P / self.discopop_tau
        # m exp(-x) in one exponential: of pairs far on the wrong side m is 0 and exp(-x) infinite.
        return smoothed(log_odds_P, 0.0) * (-modulated_P).sigmoid() + (logsigmoid(modulated_P) - log_odds_P).exp()
