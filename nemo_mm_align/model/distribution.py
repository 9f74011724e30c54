"""A next-token distribution whose vocabulary lies on several ranks, in two numbers; logits are read, not kept or changed.

Shapes: P labelled positions of the micro batch, V vocabulary columns of this rank.
"""

from __future__ import annotations

import torch
from megatron.core import parallel_state
from torch import Tensor

_ELEMENTS = 1 << 22
"""Of the logits looked at together: 16 MiB in fp32, twice, beside an output layer that holds all of them."""

FLOOR = -80.0
"""Nats below the highest logit: what lies deeper weighs less than 2e-35, and shut-out columns (minus infinity) do as well."""


@torch.no_grad()
def summarise_logits(logits_PV: Tensor) -> tuple[Tensor, Tensor]:
    """Return entropy and highest log-probability of each position's distribution over the whole vocabulary, [P] in nats.

    With z the logits less the highest one and Z the sum of exp z, the highest log-probability is -log Z and the entropy
    log Z - sum(z exp z) / Z. Every tensor-parallel rank calls it, and gets the same.
    """
    highest_P = logits_PV.amax(dim=-1).float()
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() > 1:
        torch.distributed.all_reduce(highest_P, torch.distributed.ReduceOp.MAX, group=group)
    rows = max(1, _ELEMENTS // logits_PV.shape[-1])
    parts = zip(logits_PV.split(rows), highest_P.split(rows), strict=True)
    sums_2P = torch.cat([_sums(logits_RV, highest_R) for logits_RV, highest_R in parts], dim=1)
    if group.size() > 1:
        torch.distributed.all_reduce(sums_2P, group=group)
    weights_P, weighted_P = sums_2P
    log_sums_P = weights_P.log()
    return log_sums_P - weighted_P / weights_P, -log_sums_P


def _sums(logits_RV: Tensor, highest_R: Tensor) -> Tensor:
    """Sums over this rank's columns of exp z and z exp z, [2, R]."""
    shifted_RV = (logits_RV.float() - highest_R.unsqueeze(-1)).clamp_(min=FLOOR)
    weights_RV = shifted_RV.exp()
    return torch.stack([weights_RV.sum(dim=-1), torch.linalg.vecdot(weights_RV, shifted_RV)])
