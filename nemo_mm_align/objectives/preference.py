"""What losses on pairs of answers have in common: log-probs under policy and reference, rewards, metrics.

Shapes: B rows, S positions, Q sequences of the micro batch, P pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.configuration import NotNegative, Positive
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch


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
        loss = losses_P.sum() - self.sft_loss_weight * batch.of_role(CHOSEN, policy_Q / scale_Q).sum()
        further = self.further_losses(ratio_Q, batch)
        loss = loss + sum(further.values())
        pairs = torch.full((), len(losses_P), dtype=torch.int, device=loss.device)
        chosen_P, rejected_P = self.beta * ratios.chosen_P, self.beta * ratios.rejected_P
        sums = {
            "loss": loss,
            "reward_chosen": chosen_P.sum(),
            "reward_rejected": rejected_P.sum(),
            "reward_margin": (chosen_P - rejected_P).sum(),
            "reward_accuracy": (chosen_P > rejected_P).float().sum(),
            "log_prob_chosen": batch.of_role(CHOSEN, policy_Q).sum(),
            "log_prob_rejected": batch.of_role(REJECTED, policy_Q).sum(),
            "log_ratio_to_reference": (policy_Q - reference_Q).sum() / 2,
            "length_chosen": batch.of_role(CHOSEN, lengths_Q).sum(),
            "length_rejected": batch.of_role(REJECTED, lengths_Q).sum(),
            **{f"loss_{name}": value for name, value in further.items()},
        }
        weight = pairs.float()
        return LossOutput(loss, pairs, {name: (value.detach().clone().float(), weight) for name, value in sums.items()})
