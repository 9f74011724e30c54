"""The two products of an adapter in fewer passes over wide activations; `lora` has the plain way.

Shapes: S sequence, B rows, H inputs, R rank of all adapters of a layer together, O outputs of this rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def add_product(
    output_SBO: Tensor, low_SBR: Tensor, scale: float, ups: Sequence[Tensor], starts: Sequence[int]
) -> Tensor:
    """Return the output with the adapters' part added: each slice of columns gets scale x its part of `low` x its matrix.

    The sum is the product's own (``addmm``): nothing of the output's width is scaled, joined, kept or copied.

    Args:
        output_SBO: what the layer itself has computed; overwritten, where nobody else may hold it.
        low_SBR: what the matrices A have made of the input, one adapter's after the other's.
        ups: matrices [k, columns], which take the parts of `low` in this order; their k sum up to R.
        starts: first column of each; the slices do not overlap.
    """
    # The memory of a view is somebody else's as well: megatron-core's reductions return what they were given.
    own_SBO = output_SBO.clone() if output_SBO._is_view() or not output_SBO.is_contiguous() else output_SBO
    result: Tensor = _AddProduct.apply(own_SBO, low_SBR, scale, tuple(starts), *ups)
    return result


class _AddProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output_SBO: Tensor, low_SBR: Tensor, scale: float, starts: tuple[int, ...], *ups: Tensor
    ) -> Tensor:
        flat_NO = output_SBO.view(-1, output_SBO.shape[-1])
        for start, up, low_NK in zip(starts, ups, _parts(low_SBR, ups), strict=True):
            flat_NO[:, start : start + up.shape[1]].addmm_(low_NK, up, alpha=scale)
        ctx.mark_dirty(output_SBO)
        ctx.save_for_backward(low_SBR, *ups)
        ctx.scale, ctx.starts = scale, starts
        return output_SBO

    @staticmethod
    def backward(ctx: Any, grad_SBO: Tensor) -> tuple[Any, ...]:
        low_SBR, *ups = ctx.saved_tensors
        flat_NO = grad_SBO.reshape(-1, grad_SBO.shape[-1])
        slices = [flat_NO[:, start : start + up.shape[1]] for start, up in zip(ctx.starts, ups, strict=True)]
        grad_low: Tensor | None = None
        grad_ups: Sequence[Tensor | None] = [None] * len(ups)
        if ctx.needs_input_grad[1]:
            parts = [_scaled_product(part, up.t(), ctx.scale) for part, up in zip(slices, ups, strict=True)]
            grad_low = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).view_as(low_SBR)
        if any(ctx.needs_input_grad[4:]):
            lows = _parts(low_SBR, ups)
            grad_ups = [_scaled_product(low.t(), part, ctx.scale) for low, part in zip(lows, slices, strict=True)]
        return (grad_SBO, grad_low, None, None, *grad_ups)


def _parts(low_SBR: Tensor, ups: Sequence[Tensor]) -> Sequence[Tensor]:
    return low_SBR.flatten(0, 1).split([up.shape[0] for up in ups], dim=1)


def _scaled_product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale x left x right, in the product itself."""
    return torch.addmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def linear_of_dropped(input_SBH: Tensor, a_RH: Tensor, dropout: float) -> Tensor:
    """Return the product of A and the input behind dropout, [S, B, R], and keep neither mask nor what it lets through.

    The backward pass draws the mask again, from the state that the generator had: torch's own dropout of the same state is
    the same on a CPU. A recomputed forward pass finds the generator as the first one did.

    Args:
        dropout: share of the inputs that are zeroed; the others are divided by what is left.
    """
    result: Tensor = _LinearOfDropped.apply(input_SBH, a_RH, dropout)
    return result


class _LinearOfDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_SBH: Tensor, a_RH: Tensor, dropout: float) -> Tensor:
        ctx.state, ctx.dropout = _generator(input_SBH.device).get_rng_state(), dropout
        ctx.save_for_backward(input_SBH, a_RH)
        return F.linear(_mask(input_SBH, dropout).mul_(input_SBH), a_RH).mul_(1 / (1 - dropout))

    @staticmethod
    def backward(ctx: Any, grad_SBR: Tensor) -> tuple[Any, ...]:
        input_SBH, a_RH = ctx.saved_tensors
        with _as_it_was(input_SBH.device, ctx.state):
            mask_SBH = _mask(input_SBH, ctx.dropout)
        grad_SBR = grad_SBR * (1 / (1 - ctx.dropout))
        grad_input = grad_a = None
        if ctx.needs_input_grad[0]:
            grad_input = (grad_SBR @ a_RH).mul_(mask_SBH)
        if ctx.needs_input_grad[1]:
            grad_a = grad_SBR.flatten(0, 1).t() @ mask_SBH.mul_(input_SBH).flatten(0, 1)
        return grad_input, grad_a, None


def _mask(like: Tensor, dropout: float) -> Tensor:
    """1 where the input stays, else 0: 16 bits have no 1 / (1 - dropout), by which the narrow products are scaled.

    Memory of its own: which number an element draws hangs on its layout.
    """
    return torch.empty(like.shape, dtype=like.dtype, device=like.device).bernoulli_(1 - dropout)


def _generator(device: torch.device) -> Any:
    return torch.cuda if device.type == "cuda" else torch


@contextmanager
def _as_it_was(device: torch.device, state: Tensor) -> Iterator[None]:
    """Set the default generator back to `state` for the length of a block. On a GPU this is the host's business alone."""
    generator = _generator(device)
    now = generator.get_rng_state()
    generator.set_rng_state(state)
    try:
        yield
    finally:
        generator.set_rng_state(now)
