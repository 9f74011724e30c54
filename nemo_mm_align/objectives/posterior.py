"""The distribution of answers that fit what is asked for, learned from weighed samples.

Shapes: Q sequences of the micro batch (answers, sample by sample), P prompts, N most answers of one, T = 2 targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nemo_mm_align.datasets.kinds.steered import LOG_LIKELIHOOD, LOG_PRIOR
from nemo_mm_align.objectives.objective import LossOutput, Objective, Reading

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_mm_align.datasets.batch import Batch


@dataclass(frozen=True)
class PosteriorMatching(Objective):
    """Pull Q(y | a, x) towards P(y | a, x), which goes as P(a | x, y) P(y | x), on answers y_i to a prompt x that asks for a.

    With Q' the model as it is before training, each prompt has the weights

        w_i = softmax_i(log P(a | x, y_i) + log P(y_i | x) - log Q'(y_i | a, x))      of the target
        b_i = softmax_i(log Q(y_i | a, x) - log Q'(y_i | a, x))                       of the policy

    and the loss KL(w || b) / (mean answer tokens of the prompt), averaged over prompts. The gradient of KL(w || b) is
    sum_i (w_i - b_i) grad(-log Q(y_i | a, x)), that of SteerLM 2.0 (Wang et al., arXiv 2406.08673, section 4.5), and so is the
    division by tokens NeMo-Aligner's (`weight_loss_func` of its gpt_steerlm_model.py). The value is not: its sum_i (w_i - b_i)
    (-log Q) has no minimum where w = b, this one is 0 there and above it elsewhere, so that held-out losses can be compared.

    Log-probs are sums over an answer's tokens; the softmaxes are taken in float64.

    Args:
        shared_prefix: all answers of a prompt lie in one row behind it.
    """

    needs_reference: ClassVar[bool] = True

    shared_prefix: bool

    @property
    def rows_shared(self) -> bool:
        """As the setting says."""
        return self.shared_prefix

    def loss(self, reading: Reading, batch: Batch) -> LossOutput:
        """Sum over prompts; the step divides by their number. It is NaN where a prior is neither a target nor the reference's.

        Raises:
            ValueError: the batch carries no targets or no reference log-probs.
        """
        groups = Groups.of(batch)
        policy_Q = -batch.sum_per_sequence(reading.token_losses_BS).double()
        target_PN, reference_PN = groups(target_log_weights(batch)), groups(_reference(batch))
        log_w_PN = groups.log_softmax(target_PN)
        log_b_PN = groups.log_softmax(groups(policy_Q) - reference_PN)
        kl_P = (log_w_PN.exp() * (log_w_PN - log_b_PN)).masked_fill(groups.absent_PN, 0).sum(dim=1)
        tokens_P = groups(batch.sum_per_sequence((batch.labels_BS >= 0).double())).sum(dim=1) / groups.sizes_P
        loss = (kl_P / tokens_P).sum()
        prompts = groups.sizes_P.new_tensor(len(batch.sequence_counts))
        sums = {"loss": loss.detach().clone(), "kl_target": kl_P.detach().sum()}
        sums |= _weight_metrics(log_w_PN, log_b_PN.detach(), groups(_targets(batch)[:, LOG_LIKELIHOOD]))
        return LossOutput(loss, prompts.int(), {name: (value.float(), prompts.float()) for name, value in sums.items()})


class Groups:
    """Which sequences answer one prompt: gathers values per sequence into rows of a prompt each."""

    def __init__(self, places_PN: Tensor, sizes_P: Tensor) -> None:
        self.places_PN, self.absent_PN, self.sizes_P = places_PN.clamp(min=0), places_PN < 0, sizes_P

    @classmethod
    def of(cls, batch: Batch) -> Groups:
        """Find them; counted on the host, so that no device is waited for."""
        import torch

        from nemo_mm_align.core.transfers import to_device

        counts, device = batch.sequence_counts, batch.labels_BS.device
        first, rows, most = 0, [], max(counts)
        for count in counts:
            rows.append([*range(first, first + count), *[-1] * (most - count)])
            first += count
        sizes_P = torch.tensor(counts, dtype=torch.float64)
        return cls(to_device(torch.tensor(rows), device), to_device(sizes_P, device))

    def __call__(self, values_Q: Tensor) -> Tensor:
        """Return values per sequence as [P, N], in float64, 0 where a prompt has fewer answers."""
        return values_Q.double()[self.places_PN].masked_fill(self.absent_PN, 0)

    def log_softmax(self, logits_PN: Tensor) -> Tensor:
        """Return the log-weights of each prompt's answers, -inf where it has fewer."""
        return logits_PN.masked_fill(self.absent_PN, float("-inf")).log_softmax(dim=1)


def target_log_weights(batch: Batch) -> Tensor:
    """Return log P(a | x, y) + log P(y | x) - log Q'(y | a, x) of each answer, [Q] in float64.

    Raises:
        ValueError: the batch carries no targets or no reference log-probs.
    """
    targets_QT = _targets(batch)
    prior_Q = targets_QT[:, LOG_PRIOR]
    if batch.prior_log_probs_Q is not None:
        prior_Q = prior_Q.where(~prior_Q.isnan(), batch.prior_log_probs_Q.double())
    return targets_QT[:, LOG_LIKELIHOOD] + prior_Q - _reference(batch)


def _targets(batch: Batch) -> Tensor:
    if batch.targets_QT is None or batch.targets_QT.shape[1] != 2:
        raise ValueError("the batch carries no log-likelihoods and log-priors")
    return batch.targets_QT.double()


def _reference(batch: Batch) -> Tensor:
    if batch.reference_log_probs_Q is None:
        raise ValueError("the batch carries no reference log-probs")
    return batch.reference_log_probs_Q.double()


def _weight_metrics(log_w_PN: Tensor, log_b_PN: Tensor, likelihood_PN: Tensor) -> dict[str, Tensor]:
    """Sums over prompts of what tells how the weights lie."""
    w_PN, b_PN = log_w_PN.exp(), log_b_PN.exp()
    best_P1 = w_PN.argmax(dim=1, keepdim=True)
    return {
        "ess_target": (1 / w_PN.square().sum(dim=1)).sum(),
        "ess_policy": (1 / b_PN.square().sum(dim=1)).sum(),
        "best_weight_target": w_PN.gather(1, best_P1).sum(),
        "best_weight_policy": b_PN.gather(1, best_P1).sum(),
        "log_likelihood_target": (w_PN * likelihood_PN).sum(),
        "log_likelihood_policy": (b_PN * likelihood_PN).sum(),
    }
