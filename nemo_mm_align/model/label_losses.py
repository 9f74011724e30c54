"""-log p of labels straight from hidden states: logits of a chunk of positions at a time, none of which is kept.

The idea is that of Liger Kernel (arXiv 2410.10989) and Cut Cross-Entropy (arXiv 2411.09009). A position's loss hangs on its own
hidden state alone: where the output layer is frozen, as under LoRA, the gradient of that state is taken while the chunk's
probabilities are there, and the backward pass scales it. Where the output layer is trained, the backward pass computes the
logits once more, in chunks of at least H positions: smaller ones save nothing beside the weight's gradient.

Shapes: P labelled positions, R those of a chunk, H hidden, V vocabulary columns of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from torch import Tensor

from nemo_mm_align.model.arithmetic import chunk_rows
from nemo_mm_align.model.distribution import FLOOR


def label_losses(
    hidden_PH: Tensor, weight_VH: Tensor, labels_P: Tensor, real_vocab_size: int, distribution: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, entropy and highest log-probability of every position, [P] fp32, nats; gradients flow to the first alone.

    Every tensor-parallel rank calls it. Its gradient of `hidden_PH` is that of this rank's columns, to be summed over ranks.

    Args:
        hidden_PH: hidden states behind the final norm.
        weight_VH: this rank's rows of the output layer.
        labels_P: token ids.
        real_vocab_size: columns of all ranks from this one on are padding, and have no probability.
        distribution: whether entropies are asked for; else they are 0.
    """
    first = parallel_state.get_tensor_model_parallel_rank() * len(weight_VH)
    real = max(0, real_vocab_size - first)
    losses_P, entropies_P, highest_P = _LabelLosses.apply(
        hidden_PH, weight_VH, labels_P - first, real, distribution, torch.is_grad_enabled()
    )
    return losses_P, entropies_P, highest_P


class _LabelLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_PH: Tensor, weight_VH: Tensor, targets_P: Tensor, real: int, distribution: bool, training: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        trained = training and ctx.needs_input_grad[1]
        at_once = training and not trained and ctx.needs_input_grad[0]
        gradient_PH = torch.empty_like(hidden_PH) if at_once else None
        found_4P = torch.empty(4, len(hidden_PH), dtype=torch.float32, device=hidden_PH.device)
        for rows in _chunks(hidden_PH, weight_VH):
            probabilities_RV, found_4P[:, rows] = _looked_at(
                _logits(hidden_PH[rows], weight_VH, real), targets_P[rows], distribution
            )
            if gradient_PH is not None:
                error_RV = _less_one(probabilities_RV, targets_P[rows])
                torch.mm(error_RV.to(weight_VH.dtype), weight_VH, out=gradient_PH[rows])
                del error_RV
            del probabilities_RV  # the same memory, before the next chunk takes it
        losses_P, entropies_P, highest_P, normalisers_P = found_4P
        kept = (gradient_PH,) if at_once else (hidden_PH, weight_VH, targets_P, normalisers_P)
        if training:
            ctx.save_for_backward(*kept)
        ctx.at_once, ctx.real = at_once, real
        ctx.mark_non_differentiable(entropies_P, highest_P)
        return losses_P, entropies_P, highest_P

    @staticmethod
    def backward(ctx: Any, grad_P: Tensor, *unused: Tensor) -> tuple[Any, ...]:
        if ctx.at_once:
            (gradient_PH,) = ctx.saved_tensors
            return (gradient_PH * grad_P.unsqueeze(1).to(gradient_PH.dtype), *[None] * 5)
        hidden_PH, weight_VH, targets_P, normalisers_P = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_PH) if ctx.needs_input_grad[0] else None
        grad_weight: Tensor | None = None
        for rows in _chunks(hidden_PH, weight_VH, least=hidden_PH.shape[1]):
            logits_RV = _logits(hidden_PH[rows], weight_VH, ctx.real)
            probabilities_RV = logits_RV.sub_(normalisers_P[rows].unsqueeze(1)).exp_()
            error_RV = _less_one(probabilities_RV, targets_P[rows]).mul_(grad_P[rows].unsqueeze(1))
            error_RV = error_RV.to(weight_VH.dtype)
            if grad_hidden is not None:
                torch.mm(error_RV, weight_VH, out=grad_hidden[rows])
            del probabilities_RV, logits_RV
            grad_weight = _sum(grad_weight, error_RV.t() @ hidden_PH[rows])
            del error_RV
        return (grad_hidden, None if grad_weight is None else grad_weight.to(weight_VH.dtype), *[None] * 4)


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    """Add up in fp32: of many parts, 16 bits would round the sum at each."""
    return part if total is None else total.float().add_(part)


def _chunks(hidden_PH: Tensor, weight_VH: Tensor, least: int = 1) -> Iterator[slice]:
    positions, hidden = hidden_PH.shape
    step = max(least, chunk_rows(positions, hidden, len(weight_VH)))
    return (slice(start, min(start + step, positions)) for start in range(0, positions, step))


def _logits(hidden_RH: Tensor, weight_VH: Tensor, real: int) -> Tensor:
    """Logits in fp32, of columns that are padding minus infinity."""
    logits_RV = F.linear(hidden_RH, weight_VH).float()
    logits_RV[:, real:] = -torch.inf
    return logits_RV


def _looked_at(logits_RV: Tensor, targets_R: Tensor, distribution: bool) -> tuple[Tensor, Tensor]:
    """Return probabilities, in the logits' memory, and loss, entropy, highest log-probability and log-sum-exp, [4, R]."""
    group = parallel_state.get_tensor_model_parallel_group()
    peak_R = logits_RV.amax(dim=-1)
    if group.size() > 1:
        torch.distributed.all_reduce(peak_R, torch.distributed.ReduceOp.MAX, group=group)
    logits_RV.sub_(peak_R.unsqueeze(1))
    inside_R, places_R1 = _own(targets_R, logits_RV.shape[1])
    target_R = logits_RV.gather(1, places_R1).squeeze(1).masked_fill(~inside_R, 0.0)
    sums = [target_R, torch.zeros_like(target_R)]
    if distribution:
        shifted_RV = logits_RV.clamp_(min=FLOOR).clone()
        sums[1] = torch.linalg.vecdot(logits_RV.exp_(), shifted_RV)
    else:
        logits_RV.exp_()
    sums_3R = torch.stack([*sums, logits_RV.sum(dim=-1)])
    if group.size() > 1:
        torch.distributed.all_reduce(sums_3R, group=group)
    target_R, weighted_R, total_R = sums_3R
    log_total_R = total_R.log()
    entropy_R = log_total_R - weighted_R / total_R if distribution else weighted_R
    found_4R = torch.stack([log_total_R - target_R, entropy_R, -log_total_R, peak_R + log_total_R])
    return logits_RV.div_(total_R.unsqueeze(1)), found_4R


def _own(targets_R: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Which targets are this rank's, [R], and their columns, [R, 1]; any column for those that are not."""
    return (targets_R >= 0) & (targets_R < columns), targets_R.clamp(0, columns - 1).unsqueeze(1)


def _less_one(probabilities_RV: Tensor, targets_R: Tensor) -> Tensor:
    """Probabilities less one at the target: the gradient of the loss by the logits."""
    inside_R, places_R1 = _own(targets_R, probabilities_RV.shape[1])
    return probabilities_RV.scatter_add_(1, places_R1, -inside_R.to(probabilities_RV.dtype).unsqueeze(1))
