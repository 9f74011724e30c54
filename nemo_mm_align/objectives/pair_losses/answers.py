"""Losses that judge each answer against the reference on its own: they say in which direction the chosen one shall move.

With r the log-ratio of an answer. Shapes: P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios, PairLoss, known

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ApoZero(PairLoss):
    """1 - sigmoid(beta r_chosen) + sigmoid(beta r_rejected): chosen answers become likelier, rejected ones less likely.

    Equation 7 of D'Oosterlinck et al.; for chosen answers that are better than what the model says by itself.
    """

    name = "apo_zero"
    source = "arXiv 2408.06266"

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return 1 - (self.beta * ratios.chosen_P).sigmoid() + (self.beta * ratios.rejected_P).sigmoid()


@dataclass(frozen=True)
class ApoDown(PairLoss):
    """sigmoid(beta r_chosen) + 1 - sigmoid(beta d): both answers become less likely, the rejected one more so.

    Equation 8 of D'Oosterlinck et al.; for chosen answers that are worse than what the model says by itself.
    """

    name = "apo_down"
    source = "arXiv 2408.06266"

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return (self.beta * ratios.chosen_P).sigmoid() + 1 - (self.beta * ratios.delta_P).sigmoid()


@dataclass(frozen=True)
class NcaPair(PairLoss):
    """-log sigmoid(beta r_chosen) - log sigmoid(-beta r_chosen) / 2 - log sigmoid(-beta r_rejected) / 2.

    Chen et al. (noise contrastive alignment) for two answers: the likelihood of the chosen one is kept from falling.
    """

    name = "nca_pair"
    source = "arXiv 2402.05369"

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        from torch.nn.functional import logsigmoid

        chosen_P, rejected_P = self.beta * ratios.chosen_P, self.beta * ratios.rejected_P
        return -logsigmoid(chosen_P) - 0.5 * logsigmoid(-chosen_P) - 0.5 * logsigmoid(-rejected_P)


@dataclass(frozen=True)
class BcoPair(PairLoss):
    """-log sigmoid(beta r_chosen) - log sigmoid(-beta r_rejected): a classifier of good and bad answers.

    Jung et al. (binary classifier optimisation), without the running mean of rewards that they subtract, as in TRL.
    """

    name = "bco_pair"
    source = "arXiv 2404.04656"

    beta: float

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.beta * ratios.chosen_P) - logsigmoid(-self.beta * ratios.rejected_P)


@dataclass(frozen=True)
class Sft(PairLoss):
    """-log p(chosen) / n: the mean over the tokens of each chosen answer, a term beside other losses.

    TRL divides the sum over a micro batch by its chosen tokens; with one pair in it that is this number, with more of them long
    answers weigh more, and the loss depends on how a step is divided. Here it does not.
    """

    name = "sft"
    source = "arXiv 2411.10442"
    per_token = True
    needs_reference = False

    def __call__(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""
        return -known(ratios.chosen_log_probs_P, "log-probs of chosen answers")
