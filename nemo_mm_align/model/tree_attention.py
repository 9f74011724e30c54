"""Attention of rows of trees on a CPU, without a mask: each part of a tree is a call of its own.

A position attends to what stands before it in its own branch and to the whole prefix. The first is plain causal
attention, the second needs no mask at all, and the two are put together by the logarithms of their sums of exponentials,

    l = log(exp(l_own) + exp(l_prefix)),    o = exp(l_own - l) o_own + exp(l_prefix - l) o_prefix,

which is exact (Dao et al., arXiv 2205.14135, section 3.1). Backward, each call is given l and o of the whole: exp(score - l)
are then the whole's probabilities, and nothing is computed a second time (as in ring attention, Liu et al., arXiv
2310.01889).

Shapes: S positions, B rows, N query heads, G key/value heads, R query heads that share one of these, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nemo_mm_align.model.trees import Tree, Trees

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

KEY_BLOCK = 512
"""Keys that the kernel computes at once: causality spares it whole blocks alone."""

CALL_PAIRS = 25_000
"""Pairs of query and key that take as long as one call more does, forward and backward."""


class Call(NamedTuple):
    """Attention of some positions of a row over some of its positions."""

    queries: slice
    keys: slice
    causal: bool

    @property
    def pairs(self) -> int:
        """Pairs of query and key that the kernel computes."""
        queries, keys = (span.stop - span.start for span in (self.queries, self.keys))
        if not self.causal:
            return queries * keys
        ends = range(KEY_BLOCK, keys + KEY_BLOCK, KEY_BLOCK)
        return sum(min(end, keys) * (min(end, keys) - end + KEY_BLOCK) for end in ends)


def calls_of(tree: Tree) -> Iterator[Call]:
    """Yield what makes up a tree: first calls that have each of its positions once, causal; then that over the prefix."""
    spans = [slice(*span) for span in tree.spans()]
    for span in spans:
        yield Call(span, span, causal=True)
    if tree.prefix and len(spans) > 1:
        yield Call(slice(spans[0].stop, tree.end), slice(tree.start, tree.start + tree.prefix), causal=False)


def pays(trees: Trees) -> bool:
    """Whether the calls take less time than one over whole rows with a mask, which computes every pair."""
    calls = [call for row in trees.rows for tree in row for call in calls_of(tree)]
    return sum(call.pairs + CALL_PAIRS for call in calls) < len(trees.rows) * (trees.length**2 + CALL_PAIRS)


class TreeAttention(torch.autograd.Function):
    """Scaled dot-product attention within trees, [S, B, N, D]; 0 in the padding."""

    @staticmethod
    def forward(
        ctx: Any, query_SBND: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, trees: Trees, scale: float
    ) -> Tensor:
        """Attend; see the module."""
        length, rows, heads, _ = query_SBND.shape
        groups = key_SBGD.shape[2]
        output_SBND = query_SBND.new_zeros(query_SBND.shape)
        sums_BGRS = query_SBND.new_zeros(
            (rows, groups, heads // groups, length), dtype=torch.promote_types(query_SBND.dtype, torch.float32)
        )
        for row, calls in _calls_by_row(trees):
            query, output, key, value = _of_row(row, groups, query_SBND, output_SBND, key_SBGD, value_SBGD)
            for call in calls:
                at, of = (..., call.queries, slice(None)), (..., call.keys, slice(None))
                part, part_sums = _forward(query[at], key[of], value[of], 0.0, call.causal, scale=scale)
                _add(output[at], sums_BGRS[row, ..., call.queries], part, part_sums, first=call.causal)
        ctx.save_for_backward(query_SBND, key_SBGD, value_SBGD, output_SBND, sums_BGRS)
        ctx.trees, ctx.scale = trees, scale
        return output_SBND

    @staticmethod
    def backward(ctx: Any, gradient_SBND: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Return the gradients of queries, keys and values."""
        query_SBND, key_SBGD, value_SBGD, output_SBND, sums_BGRS = ctx.saved_tensors
        groups = key_SBGD.shape[2]
        results = [tensor.new_zeros(tensor.shape) for tensor in (query_SBND, key_SBGD, value_SBGD)]
        for row, calls in _calls_by_row(ctx.trees):
            query, output, gradient, key, value = _of_row(
                row, groups, query_SBND, output_SBND, gradient_SBND, key_SBGD, value_SBGD
            )
            wholes = [_by_groups(result[:, row], groups) for result in results]
            for call in calls:
                at, of = (..., call.queries, slice(None)), (..., call.keys, slice(None))
                sums = sums_BGRS[row, ..., call.queries]
                parts = _backward(
                    gradient[at], query[at], key[of], value[of], output[at], sums, 0.0, call.causal, scale=ctx.scale
                )
                for whole, part, place in zip(wholes, parts, (at, of, of), strict=True):
                    _add_gradient(whole[place], part, first=call.causal)
        return *results, None, None


def _add(whole: Tensor, whole_sums: Tensor, part: Tensor, part_sums: Tensor, first: bool) -> None:
    """Put attention over more keys into what there is, in place; the `first` one stands as it is."""
    if not first:
        joined = torch.logaddexp(whole_sums, part_sums)
        part = (part_sums - joined).exp_().unsqueeze(-1) * part
        part += (whole_sums - joined).exp_().unsqueeze(-1) * whole
        part_sums = joined
    whole.copy_(part)
    whole_sums.copy_(part_sums)


def _add_gradient(whole: Tensor, part: Tensor, first: bool) -> None:
    if part.shape[1] > whole.shape[1]:  # keys that heads share
        part = part.sum(1, keepdim=True)
    if first:
        whole.copy_(part)
    else:
        whole.add_(part)


def _calls_by_row(trees: Trees) -> Iterator[tuple[int, list[Call]]]:
    for row, of_row in enumerate(trees.rows):
        yield row, [call for tree in of_row for call in calls_of(tree)]


def _of_row(row: int, groups: int, *tensors_SBND: Tensor) -> list[Tensor]:
    """Views of one row, [G, R, S, D]: groups are the kernel's batch, and their keys, the last two, are seen by R heads."""
    views = [_by_groups(tensor[:, row], groups) for tensor in tensors_SBND]
    heads = views[0].shape[1]
    return [*views[:-2], *(view.expand(-1, heads, -1, -1) for view in views[-2:])]


def _by_groups(tensor_SND: Tensor, groups: int) -> Tensor:
    return tensor_SND.unflatten(1, (groups, -1)).permute(1, 2, 0, 3)
