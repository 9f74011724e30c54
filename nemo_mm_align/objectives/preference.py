"""What losses on pairs of answers have in common: log-probs under policy and reference, rewards, metrics.

Shapes: B rows, S positions, Q sequences of the micro batch, P pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.core.configuration import NotNegative, Positive
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch


SATURATED = 0.01
"""Below this gradient weight a pair teaches nothing any more: a fiftieth of what it taught at the start."""


@dataclass(frozen=True)
class PairLogRatios:
    """log policy - log reference of the answers of P pairs, nats: summed over tokens, or their mean (`Preference.per_token`)."""

    chosen_P: Tensor
    rejected_P: Tensor


@dataclass(frozen=True)
class Preference(Objective):
    """Training on pairs of a chosen and a rejected answer.

    Args:
        beta: strength of the pull towards the reference.
        sft_loss_weight: of an added -log p(chosen).
        shared_prefix: chosen and rejected lie in one row behind their common prompt.
        use_stored_reference: take the records' own reference log-probs instead of computing them.
    """

    needs_reference: ClassVar[bool] = True
    per_token: ClassVar[bool] = False
    """Whether log-probs are means over an answer's tokens, not sums."""

    beta: Positive
    sft_loss_weight: NotNegative
    shared_prefix: bool
    use_stored_reference: bool

    @property
    def rows_shared(self) -> bool:
        """As the setting says."""
        return self.shared_prefix

    @property
    def reference_stored(self) -> bool:
        """As the setting says."""
        return self.use_stored_reference

    @abstractmethod
    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""

    def further_losses(self, ratio_Q: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return what is added to the losses of the pairs, by name: weighted sums over the micro batch.

        Args:
            ratio_Q: log policy - log reference of each sequence, as in `PairLogRatios`.
        """
        return {}

    def sequence_metrics(self, ratio_Q: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what is told beside all this, by name as (sum, weight); arguments as `further_losses`, without gradients."""
        return {}

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Losses summed over pairs, with the SFT term; the step divides by the number of pairs.

        Raises:
            ValueError: the batch carries no reference log-probs.
        """
        import torch

        if batch.reference_log_probs_Q is None:
            raise ValueError("the batch carries no reference log-probs")
        policy_Q = -batch.sum_per_sequence(reading.token_losses_BS)
        lengths_Q = batch.sum_per_sequence((batch.labels_BS >= 0).float())
        reference_Q = batch.reference_log_probs_Q
        scale_Q = lengths_Q if self.per_token else 1
        ratio_Q = (policy_Q - reference_Q) / scale_Q
        ratios = PairLogRatios(batch.of_role(CHOSEN, ratio_Q), batch.of_role(REJECTED, ratio_Q))
        losses_P = self.pair_losses(ratios)
        if losses_P.shape != ratios.chosen_P.shape:
            raise UserError(
                f"{type(self).__name__}.pair_losses returned shape {list(losses_P.shape)} for {len(ratios.chosen_P)} pairs: "
                "return the loss of each pair, neither their sum nor their mean."
            )
        loss = losses_P.sum() - self.sft_loss_weight * batch.of_role(CHOSEN, policy_Q / scale_Q).sum()
        further = self.further_losses(ratio_Q, batch)
        loss = loss + sum(further.values())
        pairs = torch.full((), len(losses_P), dtype=torch.int, device=loss.device)
        rewards = PairLogRatios(self.beta * ratios.chosen_P.detach(), self.beta * ratios.rejected_P.detach())
        weight = pairs.float()
        sums = {
            "loss": loss.detach().clone(),
            "log_prob_chosen": batch.of_role(CHOSEN, policy_Q.detach()).sum(),
            "log_prob_rejected": batch.of_role(REJECTED, policy_Q.detach()).sum(),
            "log_ratio_to_reference": sum(
                batch.of_role(role, (policy_Q.detach() - reference_Q)).sum() for role in (CHOSEN, REJECTED)
            )
            / 2,
            "length_chosen": batch.of_role(CHOSEN, lengths_Q).sum(),
            "length_rejected": batch.of_role(REJECTED, lengths_Q).sum(),
            "saturated": (self.gradient_weights(ratios) < SATURATED).float().sum(),
            **{f"loss_{name}": value.detach() for name, value in further.items()},
        }
        metrics = {name: (value.float(), weight) for name, value in sums.items()}
        longer_P = batch.of_role(CHOSEN, lengths_Q) - batch.of_role(REJECTED, lengths_Q)
        metrics |= self.sequence_metrics(ratio_Q.detach(), batch)
        return LossOutput(loss, pairs, metrics | _reward_metrics(rewards, weight) | _by_length(rewards, longer_P))

    def gradient_weights(self, ratios: PairLogRatios) -> Tensor:
        """Return how strongly each pair still teaches, [P]: the slope of its loss in the chosen answer's log-ratio, as a
        share of twice the slope where policy and reference are one. Of -log sigmoid(beta * margin) that is
        sigmoid(-beta * margin): 1/2 at the start, 0 for a pair that teaches nothing any more."""
        import torch

        with torch.enable_grad():
            chosen_P = torch.cat([ratios.chosen_P.detach(), torch.zeros_like(ratios.chosen_P)]).requires_grad_()
            rejected_P = torch.cat([ratios.rejected_P.detach(), torch.zeros_like(ratios.rejected_P)])
            losses_P = self.pair_losses(PairLogRatios(chosen_P, rejected_P))
            (slopes_P,) = torch.autograd.grad(losses_P.sum(), chosen_P)
        now_P, at_start_P = slopes_P.abs().chunk(2)
        return now_P / (2 * at_start_P)


def _reward_metrics(rewards: PairLogRatios, weight: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Rewards under TRL's names, and under those that earlier versions gave."""
    sums = {
        "chosen": rewards.chosen_P.sum(),
        "rejected": rewards.rejected_P.sum(),
        "margin": (rewards.chosen_P - rewards.rejected_P).sum(),
        "accuracy": (rewards.chosen_P > rewards.rejected_P).float().sum(),
    }
    plural = {"margin": "margins", "accuracy": "accuracies"}
    metrics = {name: (value.float(), weight) for name, value in sums.items()}
    earlier = {f"reward_{name}": pair for name, pair in metrics.items()}
    return earlier | {f"rewards/{plural.get(name, name)}": pair for name, pair in metrics.items()}


def _by_length(rewards: PairLogRatios, longer_P: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Accuracy apart for pairs whose chosen answer is the longer and the shorter one: a reward for length tells them apart."""
    right_P = rewards.chosen_P > rewards.rejected_P
    return {
        f"rewards/accuracies_{name}": ((right_P & of_kind_P).float().sum(), of_kind_P.float().sum())
        for name, of_kind_P in (("longer", longer_P > 0), ("shorter", longer_P < 0))
    }
