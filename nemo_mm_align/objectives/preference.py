"""What losses on pairs of answers have in common: log-probs under policy and reference, rewards, metrics.

Shapes: B rows, S positions, Q sequences of the micro batch, P pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.core.configuration import NotNegative, Positive
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading
from nemo_mm_align.objectives.pair_losses.pair_loss import PairLogRatios
from nemo_mm_align.objectives.pair_metrics import Sums, by_length, means, reward_metrics, saturated

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch

__all__ = ["PairLogRatios", "PairObjective", "Preference"]


@dataclass(frozen=True)
class PairObjective(Objective):
    """Training on pairs of a chosen and a rejected answer, with a reference or without.

    Args:
        beta: strength of the pull towards the reference; without one, the scale of rewards.
        sft_loss_weight: of an added -log p(chosen).
        shared_prefix: chosen and rejected lie in one row behind their common prompt.
    """

    per_token: ClassVar[bool] = False
    """Whether log-probs are means over an answer's tokens, not sums."""

    beta: Positive
    sft_loss_weight: NotNegative
    shared_prefix: bool

    @property
    def rows_shared(self) -> bool:
        """As the setting says."""
        return self.shared_prefix

    @abstractmethod
    def pair_losses(self, ratios: PairLogRatios) -> Tensor:
        """Return the loss of each pair, [P]."""

    def parts(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        """Return what `pair_losses` is the sum of, by name, weighted, [P] each: several become metrics ``loss_<name>``."""
        return {"pairs": self.pair_losses(ratios)}

    def further_losses(self, ratio_Q: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return what is added to the losses of the pairs, by name: weighted sums over the micro batch.

        Args:
            ratio_Q: log policy - log reference of each sequence, as in `PairLogRatios`.
        """
        return {}

    def further_metrics(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        """Return numbers of each pair, [P], whose means are told under these names; `ratios` carry no gradients."""
        return {}

    def sequence_metrics(self, ratio_Q: Tensor, batch: Batch) -> Sums:
        """Return what is told of sequences that belong to no pair; arguments as those of `further_losses`, without gradients."""
        return {}

    def margins(self, batch: Batch) -> Tensor | None:
        """Return `PairLogRatios.margins_P`, where a loss reads them."""
        return None

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Losses summed over pairs, with the SFT term; the step divides by the number of pairs.

        Raises:
            ValueError: the batch carries no reference log-probs, and there is to be a reference.
        """
        import torch

        policy_Q = -batch.sum_per_sequence(reading.token_losses_BS)
        lengths_Q = batch.sum_per_sequence((batch.labels_BS >= 0).float())
        scale_Q = lengths_Q if self.per_token else 1
        ratio_Q = self._ratios(policy_Q, batch) / scale_Q
        ratios = self._pairs(ratio_Q, lengths_Q, policy_Q / scale_Q, batch)
        parts = self._checked_parts(ratios)
        further = self.further_losses(ratio_Q, batch)
        loss = sum(parts.values()).sum() - self.sft_loss_weight * ratios.chosen_log_probs_P.sum()  # type: ignore[union-attr]
        loss = loss + sum(further.values())
        pairs = torch.full((), len(ratios.chosen_P), dtype=torch.int, device=loss.device)
        named = {name: part_P.sum() for name, part_P in parts.items()} if len(parts) > 1 else {}
        told = {"loss": loss, **{f"loss_{name}": value for name, value in {**named, **further}.items()}}
        with torch.no_grad():
            metrics = {name: (value.detach().clone().float(), pairs.float()) for name, value in told.items()}
            metrics |= self.sequence_metrics(ratio_Q.detach(), batch)
            return LossOutput(loss, pairs, metrics | self._metrics(ratios, policy_Q.detach(), batch, pairs.float()))

    def _ratios(self, policy_Q: Tensor, batch: Batch) -> Tensor:
        """Sums of log policy - log reference, or of log policy alone."""
        if not self.needs_reference:
            return policy_Q
        if batch.reference_log_probs_Q is None:
            raise ValueError("the batch carries no reference log-probs")
        return policy_Q - batch.reference_log_probs_Q

    def _pairs(self, ratio_Q: Tensor, lengths_Q: Tensor, log_probs_Q: Tensor, batch: Batch) -> PairLogRatios:
        return PairLogRatios(
            batch.of_role(CHOSEN, ratio_Q),
            batch.of_role(REJECTED, ratio_Q),
            chosen_lengths_P=batch.of_role(CHOSEN, lengths_Q),
            rejected_lengths_P=batch.of_role(REJECTED, lengths_Q),
            chosen_log_probs_P=batch.of_role(CHOSEN, log_probs_Q),
            margins_P=self.margins(batch),
        )

    def _checked_parts(self, ratios: PairLogRatios) -> dict[str, Tensor]:
        parts = self.parts(ratios)
        for losses_P in parts.values():
            if losses_P.shape != ratios.chosen_P.shape:
                raise UserError(
                    f"{type(self).__name__}.pair_losses returned shape {list(losses_P.shape)} for {len(ratios.chosen_P)} pairs: "
                    "return the loss of each pair, neither their sum nor their mean."
                )
        return parts

    def _metrics(self, ratios: PairLogRatios, policy_Q: Tensor, batch: Batch, weight: Tensor) -> Sums:
        """What is told beside losses; docs/metrics.md has every name."""
        ratios = ratios.detached()
        rewards = replace(ratios, chosen_P=self.beta * ratios.chosen_P, rejected_P=self.beta * ratios.rejected_P)
        sums = {
            "log_prob_chosen": batch.of_role(CHOSEN, policy_Q).sum(),
            "log_prob_rejected": batch.of_role(REJECTED, policy_Q).sum(),
            "length_chosen": ratios.chosen_lengths_P.sum(),  # type: ignore[union-attr]
            "length_rejected": ratios.rejected_lengths_P.sum(),  # type: ignore[union-attr]
            "saturated": saturated(self.gradient_weights(ratios)).sum(),
        }
        if self.needs_reference:
            ratio_Q = self._ratios(policy_Q, batch)
            sums["log_ratio_to_reference"] = sum(batch.of_role(role, ratio_Q).sum() for role in (CHOSEN, REJECTED)) / 2
        found = {name: (value.float(), weight) for name, value in sums.items()}
        return found | means(self.further_metrics(ratios)) | reward_metrics(rewards, weight) | by_length(rewards)

    def gradient_weights(self, ratios: PairLogRatios) -> Tensor:
        """Return how strongly each pair still teaches, [P]: the slopes of its losses in both answers' log-ratios, without signs,
        as a share of twice those at the start: policy and reference are one; without a reference, both answers equally likely.

        Of -log sigmoid(beta * margin) that is sigmoid(-beta * margin): 1/2 at the start, 0 for a pair that teaches nothing any
        more. A pair that has nothing to teach where it starts has 0 there, and as soon as it has something, more than 1.
        """
        import torch

        now_P, at_start_P = self._slopes(ratios), self._slopes(self._start(ratios))
        return now_P / (2 * at_start_P).clamp(min=torch.finfo(now_P.dtype).tiny)

    def _start(self, ratios: PairLogRatios) -> PairLogRatios:
        middle_P = (ratios.chosen_P + ratios.rejected_P) / 2
        start_P = middle_P * 0 if self.needs_reference else middle_P
        return replace(ratios, chosen_P=start_P, rejected_P=start_P)

    def _slopes(self, ratios: PairLogRatios) -> Tensor:
        """|d loss / d chosen| + |d loss / d rejected|, [P]."""
        import torch

        with torch.enable_grad():
            answers = [
                ratios.chosen_P.detach().clone().requires_grad_(),
                ratios.rejected_P.detach().clone().requires_grad_(),
            ]
            losses_P = self.pair_losses(replace(ratios, chosen_P=answers[0], rejected_P=answers[1]))
            slopes = torch.autograd.grad(losses_P.sum(), answers, materialize_grads=True)
        return slopes[0].abs() + slopes[1].abs()


@dataclass(frozen=True)
class Preference(PairObjective):
    """The same with a reference.

    Args:
        use_stored_reference: take the records' own reference log-probs instead of computing them.
    """

    needs_reference: ClassVar[bool] = True

    use_stored_reference: bool

    @property
    def reference_stored(self) -> bool:
        """As the setting says."""
        return self.use_stored_reference
