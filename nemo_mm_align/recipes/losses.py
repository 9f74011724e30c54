"""Losses of the recipes: what the last pipeline stage makes of per-token losses.

Shapes: B rows, S positions, Q sequences of the micro batch, P pairs (Q = 2 P, chosen before rejected).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nemo_mm_align.datasets.batch import Batch


@dataclass(frozen=True)
class LossOutput:
    """What one micro batch contributes.

    `loss_sum` is differentiable and not yet divided; the gradient of the whole step is the sum over micro batches and
    replicas divided by the summed `count`. `metrics` maps a name to (sum, weight); the reported value is their ratio.
    """

    loss_sum: Tensor
    count: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]]


def imitation_loss(token_losses_BS: Tensor, batch: Batch) -> LossOutput:
    """Mean negative log-likelihood of answer tokens (SFT, rejection sampling, SteerLM).

    Args:
        token_losses_BS: -log p of the label at every position, nats, 0 where there is none.
    """
    loss = token_losses_BS.sum()
    count = (batch.labels_BS >= 0).sum().int()
    return LossOutput(loss, count, {"loss": (loss.detach().clone(), count.float())})


def dpo_losses(policy_log_probs_Q: Tensor, reference_log_probs_Q: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Direct preference optimisation, -log sigmoid(beta * margin) (Rafailov et al., arXiv 2305.18290, equation 7).

    Args:
        policy_log_probs_Q: summed log-probs of the answers, chosen at even, rejected at odd places.
        reference_log_probs_Q: the same under the reference model.
        beta: strength of the pull towards the reference.

    Returns:
        Losses, chosen rewards and rejected rewards, [P] each; reward = beta * (log policy - log reference).
    """
    rewards_P2 = beta * (policy_log_probs_Q - reference_log_probs_Q).view(-1, 2)
    chosen_P, rejected_P = rewards_P2.unbind(dim=1)
    return -F.logsigmoid(chosen_P - rejected_P), chosen_P, rejected_P


def preference_loss(token_losses_BS: Tensor, batch: Batch, beta: float, sft_weight: float = 0.0) -> LossOutput:
    """DPO with an optional SFT term, -sft_weight * log p(chosen), summed over pairs; the count is pairs.

    Args:
        token_losses_BS: -log p of the label at every position, nats, 0 where there is none.
        batch: must carry `reference_log_probs_Q`.
    """
    if batch.reference_log_probs_Q is None:
        raise ValueError("the batch carries no reference log-probs")
    policy_Q = -batch.sum_per_sequence(token_losses_BS)
    losses_P, chosen_P, rejected_P = dpo_losses(policy_Q, batch.reference_log_probs_Q, beta)
    chosen_log_probs_P = policy_Q.view(-1, 2)[:, 0]
    loss = losses_P.sum() - sft_weight * chosen_log_probs_P.sum()
    pairs = torch.full((), len(losses_P), dtype=torch.int, device=loss.device)
    lengths_P2 = batch.sum_per_sequence((batch.labels_BS >= 0).float()).view(-1, 2)
    drift_Q = (policy_Q - batch.reference_log_probs_Q).detach()
    sums = {
        "loss": loss,
        "reward_chosen": chosen_P.sum(),
        "reward_rejected": rejected_P.sum(),
        "reward_margin": (chosen_P - rejected_P).sum(),
        "reward_accuracy": (chosen_P > rejected_P).float().sum(),
        "log_prob_chosen": chosen_log_probs_P.sum(),
        "log_prob_rejected": policy_Q.view(-1, 2)[:, 1].sum(),
        "log_ratio_to_reference": drift_Q.sum() / 2,
        "length_chosen": lengths_P2[:, 0].sum(),
        "length_rejected": lengths_P2[:, 1].sum(),
    }
    weight = pairs.float()
    return LossOutput(loss, pairs, {name: (value.detach().clone().float(), weight) for name, value in sums.items()})
