"""Attention of rows of trees on a GPU, without a mask: one call of flash attention on sequences of any length.

Queries lie in order, row by row, each once: a tree's first branch with the prefix in front of it, then its other branches.
Keys are gathered, the prefix once more for every further branch. The kernel counts causality from the ends of both, so that
a branch's queries see the whole prefix.

Shapes: S positions, B rows, N query heads, G key/value heads, D head width, K gathered keys, Q sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.transfers import to_device
from nemo_mm_align.model.config import EngineConfig, LlavaConfig
from nemo_mm_align.model.trees import Span, Tree, Trees

PADDING_PIECE = 128
"""Padding is cut into sequences of so many positions: it costs next to nothing, and there is no place left undefined."""


@dataclass(frozen=True)
class Packing:
    """Where sequences end, as the kernel wants it, and which keys they have."""

    keys_K: Tensor
    """Places in the flattened [S, B]."""
    query_ends: Tensor
    """First query of each sequence and the end of the last, int32 [Q + 1]."""
    key_ends: Tensor
    """The same of the gathered keys."""
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, trees: Trees, device: torch.device) -> Packing:
        """Count on the host; nobody waits for the device."""
        rows, places, queries, keys = len(trees.rows), [], [0], [0]
        for row, of_row in enumerate(trees.rows):
            for query, spans in sequences(of_row, trees.length):
                places += [torch.arange(*span) * rows + row for span in spans]
                queries.append(query[1] - query[0])
                keys.append(sum(end - start for start, end in spans))
        query_ends, key_ends = (
            to_device(torch.tensor(list(accumulate(lengths)), dtype=torch.int32), device) for lengths in (queries, keys)
        )
        return cls(to_device(torch.cat(places), device), query_ends, key_ends, max(queries), max(keys))


def sequences(trees: tuple[Tree, ...], length: int) -> Iterator[tuple[Span, list[Span]]]:
    """Yield the queries of each sequence of a row of `length`, in order and without a gap, and what makes up its keys."""
    done = 0
    for tree in trees:
        yield from _padding(done, tree.start)
        (first, *others), prefix = tree.spans(), (tree.start, tree.start + tree.prefix)
        yield first, [first]
        yield from ((branch, [prefix, branch]) for branch in others)
        done = tree.end
    yield from _padding(done, length)


def _padding(start: int, end: int) -> Iterator[tuple[Span, list[Span]]]:
    for first in range(start, end, PADDING_PIECE):
        piece = first, min(first + PADDING_PIECE, end)
        yield piece, [piece]


def fits(dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel takes a number format and a width of heads."""
    return dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256


def check(config: LlavaConfig, engine: EngineConfig) -> None:
    """Raise `UserError` where ``model.levers.attention=true`` asks a GPU for what its kernel does not do."""
    dtype = torch.float32 if engine.precision == "fp32" else torch.bfloat16
    width = config.language.kv_channels
    if engine.levers.attention and torch.cuda.is_available() and not fits(dtype, width):
        raise UserError(
            f"model.levers.attention=true: flash attention computes in bf16 and with heads of up to 256 values, a multiple of 8; "
            f"here it is {engine.precision} and {width}. Set model.levers.attention=null."
        )


def attend(query_SBND: Tensor, key_SBGD: Tensor, value_SBGD: Tensor, packing: Packing, scale: float) -> Tensor:
    """Scaled dot-product attention within trees, [S, B, N, D]; within its pieces in the padding.

    The result is laid out as its shape says: of a transposed one, torch's product with a frozen weight is one small product for
    each position.
    """
    length, rows, heads, width = query_SBND.shape
    key, value = (x.flatten(0, 1).index_select(0, packing.keys_K) for x in (key_SBGD, value_SBGD))
    output = _flash(query_SBND.transpose(0, 1).flatten(0, 1), key, value, packing, scale)
    return output.view(rows, length, heads, width).transpose(0, 1).contiguous()


def _flash(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scale: float) -> Tensor:
    """The kernel itself: `torch.nn.attention.varlen` is another front to it in each version, and knows no scale in 2.10."""
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query, key, value, packing.query_ends, packing.key_ends, packing.longest_query, packing.longest_key,
        0.0, True, False, scale=scale,
    )[0]  # fmt: skip
    return output
