"""Kahneman-Tversky optimisation (Ethayarajh et al., arXiv 2402.01306), and the unpaired APO-zero loss, as TRL computes them.

With r the log-ratio of policy and reference of an answer (summed over its tokens, nats), z0 the reference point, s the logistic
function, and an answer desirable (D) or undesirable (U):

    kto                D: desirable_weight (1 - s(beta (r - z0)))     U: undesirable_weight (1 - s(beta (z0 - r)))
    apo_zero_unpaired  D: desirable_weight (1 - s(beta r))            U: undesirable_weight s(beta r)

(equation 7 of the former, and of D'Oosterlinck et al., arXiv 2408.06266, unpaired). z0 is the mean of r over answers to other
prompts, at least 0, without gradient: an estimate of the KL divergence of policy and reference. TRL takes that mean over the
micro batches that are computed at one time on all processes. Here it is one over all of the step, measured by forward passes
before the first loss: no micro batch size and no number of replicas changes a loss, and micro batches of one sample will do.

Shapes: B rows, S positions, Q sequences of the micro batch, D of them desirable, U undesirable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from nemo_mm_align.core.configuration import NotNegative, Positive
from nemo_mm_align.datasets.label_balance import weight_hint
from nemo_mm_align.datasets.sample import CHOSEN, REJECTED
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch


@dataclass(frozen=True)
class KahnemanTversky(Objective):
    """Training on answers that are desirable or not; formulas in the module's docstring.

    Args:
        loss_type: ``kto``, or ``apo_zero_unpaired``, which has no reference point: no mismatched answers are computed.
        beta: strength of the pull towards the reference.
        desirable_weight, undesirable_weight: of the losses of such answers.
        shared_prefix: the answers of a pair lie in one row behind their common prompt.
    """

    needs_reference: ClassVar[bool] = True

    loss_type: Literal["kto", "apo_zero_unpaired"]
    beta: Positive
    desirable_weight: NotNegative
    undesirable_weight: NotNegative
    shared_prefix: bool

    @property
    def rows_shared(self) -> bool:
        """As the setting says."""
        return self.shared_prefix

    @property
    def has_point(self) -> bool:
        """Of the loss with z0."""
        return self.loss_type == "kto"

    def point(self, reading: Reading, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum of the log-ratios of mismatched answers, and their number: z0 before it is clamped."""
        ratio_Q = _log_ratios(reading, batch)
        return ratio_Q.sum(), ratio_Q.new_tensor(len(ratio_Q))

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Weighted losses summed over answers; the step divides by the number of answers, whatever they weigh.

        Raises:
            ValueError: the batch carries no reference log-probs, or no point.
        """
        import torch

        ratio_Q = _log_ratios(reading, batch)
        z0 = self._z0(batch).to(ratio_Q)
        ratio_D, ratio_U = batch.of_role(CHOSEN, ratio_Q), batch.of_role(REJECTED, ratio_Q)
        losses_D = self.desirable_weight * (1 - torch.sigmoid(self.beta * (ratio_D - z0)))
        losses_U = self.undesirable_weight * (1 - torch.sigmoid(self.beta * (z0 - ratio_U)))
        loss = losses_D.sum() + losses_U.sum()
        count = torch.full((), len(ratio_Q), dtype=torch.int, device=loss.device)
        metrics = {
            "loss": (loss.detach().clone(), count.float()),
            "rewards/chosen": _mean(self.beta * ratio_D.detach()),
            "rewards/rejected": _mean(self.beta * ratio_U.detach()),
        }
        if self.has_point:
            metrics["kl"] = (z0 * count, count.float())
        return LossOutput(loss, count, metrics)

    def _z0(self, batch: Batch) -> Tensor:
        import torch

        if not self.has_point:
            return torch.zeros(())
        if batch.point is None:
            raise ValueError("the batch carries no point: what was measured on the step's mismatched answers")
        return batch.point.detach().clamp(min=0)

    def derived(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The difference of the mean rewards; NaN in a step that lacks one of them."""
        return {"rewards/margins": metrics["rewards/chosen"] - metrics["rewards/rejected"]}

    def hint(self, roles: Mapping[str, int]) -> str | None:
        """Of the weights, by the numbers of answers."""
        return weight_hint(roles.get(CHOSEN, 0), roles.get(REJECTED, 0), self.desirable_weight, self.undesirable_weight)


def _log_ratios(reading: Reading, batch: Batch) -> Tensor:
    """log policy - log reference of each sequence, [Q]."""
    if batch.reference_log_probs_Q is None:
        raise ValueError("the batch carries no reference log-probs")
    return -batch.sum_per_sequence(reading.token_losses_BS) - batch.reference_log_probs_Q


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.sum().float(), values.new_full((), len(values)).float()
