"""Step ``attention``: kernels for rows of a shared prefix, forward and backward, and what could replace the mask.

Shapes: B rows, N heads, S positions, D head width; a row is a prefix and two answers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nemo_mm_align.benchmarks.gpu import clock
from nemo_mm_align.benchmarks.gpu.levers import cudnn_attention
from nemo_mm_align.benchmarks.gpu.records import Context, Skipped
from nemo_mm_align.model.attention import RowsOfTrees, segment_mask
from nemo_mm_align.model.trees import Trees

Attend = Callable[[], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Lengths of prefix and answers, heads and their width."""

    prefix: int
    answer: int
    heads: int
    width: int

    @property
    def length(self) -> int:
        """Positions of a row."""
        return self.prefix + 2 * self.answer


@dataclass(frozen=True)
class Inputs:
    """Queries, keys and values as the layers hand them over, and the mask of shared-prefix rows."""

    sizes: Sizes
    leaves: tuple[Tensor, Tensor, Tensor]
    segments_BS: Tensor
    mask: Tensor

    def difference(self, attend: Attend) -> float:
        """Largest distance from attention with the mask."""
        q, k, v = self.leaves
        return round(float((attend() - F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)).abs().max()), 5)


def measure(context: Context) -> None:
    """1 and 4 rows; new lengths; FlexAttention last, which is compiled first."""
    sizes = Sizes(20, 8, 2, 16) if context.toy else Sizes(615, 201, 32, 128)
    batches = {rows: inputs(rows, sizes) for rows in (1, 4)}
    for rows, given in batches.items():
        _masked(context, given, f"{rows} rows of {sizes.length}")
        _without_mask(context, given, f"{rows} rows of {sizes.length}")
    for allowed in (False, True):
        name = f"a new length every call{' + cudnn' if allowed else ''}"
        context.recorder.case(name, lambda: new_lengths(sizes, allowed))  # noqa: B023
    context.recorder.case(f"4 rows of {sizes.length}, FlexAttention", lambda: flex(batches[4]))


def inputs(rows: int, sizes: Sizes) -> Inputs:
    """Random values; bf16 on a GPU."""
    dtype = torch.bfloat16 if clock.cuda() else torch.float32

    def drawn() -> Tensor:
        shape = (sizes.length, rows, sizes.heads, sizes.width)
        return torch.randn(shape, device=clock.device(), dtype=dtype).permute(1, 2, 0, 3).requires_grad_()

    row = [0] * sizes.prefix + [1] * sizes.answer + [2] * sizes.answer
    segments_BS = torch.tensor([row] * rows, device=clock.device())
    return Inputs(sizes, (drawn(), drawn(), drawn()), segments_BS, segment_mask(segments_BS))


def timed(attend: Attend, leaves: Sequence[Tensor]) -> dict[str, Any]:
    """Milliseconds forward and backward: of the first call, and the median of later ones."""

    def both() -> None:
        output = attend()
        output.backward(torch.ones_like(output))
        for leaf in leaves:
            leaf.grad = None

    first = clock.seconds(both)
    return {"first_ms": round(first * 1e3, 2), "ms": round(clock.median_seconds(both, 8, 2) * 1e3, 3)}


def _masked(context: Context, given: Inputs, label: str) -> None:
    q, k, v = given.leaves

    def with_mask(backend: SDPBackend | None) -> Attend:
        def attend() -> Tensor:
            if backend is None:
                return F.scaled_dot_product_attention(q, k, v, attn_mask=given.mask)
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=given.mask)

        return attend

    with cudnn_attention(False):
        context.recorder.case(f"{label}, mask, torch's choice", lambda: timed(with_mask(None), given.leaves))
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH):
        context.recorder.case(f"{label}, mask, {backend.name}", lambda: _on_gpu(with_mask(backend), given))  # noqa: B023


def _on_gpu(attend: Attend, given: Inputs) -> dict[str, Any]:
    if not clock.cuda():
        raise Skipped("the kernel needs a GPU")
    with cudnn_attention(True):
        return timed(attend, given.leaves)


def _without_mask(context: Context, given: Inputs, label: str) -> None:
    q, k, v = given.leaves

    def causal() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    context.recorder.case(
        f"{label}, plain causal by flash: a floor, wrong for these rows", lambda: _on_gpu(causal, given)
    )
    for name, made in (("two causal calls", two_calls), ("by trees (ours without a mask)", by_trees)):
        context.recorder.case(f"{label}, {name}", lambda: _exact(made(given), given))  # noqa: B023


def _exact(attend: Attend, given: Inputs) -> dict[str, Any]:
    return {"max_difference": given.difference(attend), **timed(attend, given.leaves)}


def two_calls(given: Inputs) -> Attend:
    """Prefix and first answer plain causal; the second answer over the prefix and itself. Wants prefixes of one length."""
    from torch.nn.attention.bias import causal_lower_right

    sizes, (q, k, v) = given.sizes, given.leaves
    cut = sizes.prefix + sizes.answer
    bias: Any = causal_lower_right(sizes.answer, cut)

    def attend() -> Tensor:
        first = F.scaled_dot_product_attention(q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], is_causal=True)
        keys, values = (torch.cat([x[:, :, : sizes.prefix], x[:, :, cut:]], 2) for x in (k, v))
        second = F.scaled_dot_product_attention(q[:, :, cut:], keys, values, attn_mask=bias)
        return torch.cat([first, second], 2)

    return attend


def by_trees(given: Inputs) -> Attend:
    """What ``model.levers.attention`` pulls: on a GPU one call of flash attention on gathered keys, for rows of any trees."""
    layout = RowsOfTrees.on(given.segments_BS.device, Trees.of(given.segments_BS, torch.zeros_like(given.segments_BS)))
    q, k, v = (leaf.permute(2, 0, 1, 3) for leaf in given.leaves)  # as the layers hand them over: [S, B, N, D]

    def attend() -> Tensor:
        return layout.attend(q, k, v, given.sizes.width**-0.5).unflatten(2, (given.sizes.heads, -1)).permute(1, 2, 0, 3)

    return attend


def flex(given: Inputs) -> dict[str, Any]:
    """FlexAttention with the same mask as blocks; its first call compiles."""
    if not clock.cuda():
        raise Skipped("compiling FlexAttention needs a GPU")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled, segments_BS, (q, k, v) = torch.compile(flex_attention, dynamic=False), given.segments_BS, given.leaves

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own, other = segments_BS[row, query], segments_BS[row, key]
        return (query >= key) & ((own == other) | (other == 0))

    blocks = create_block_mask(allowed, q.shape[0], None, q.shape[2], q.shape[2], device=str(q.device))
    return _exact(lambda: compiled(q, k, v, block_mask=blocks), given)


def new_lengths(sizes: Sizes, cudnn: bool) -> dict[str, Any]:
    """Milliseconds of a call whose length was never seen, in training and while decoding, where each token is one."""
    with cudnn_attention(cudnn):
        train = [_new_training_length(replace_prefix(sizes, extra)) for extra in range(1, 6)]
        decode = _growing_keys(sizes)
    return {
        "new_train_length_ms": round(statistics.median(train[1:]) * 1e3, 3),
        "decode_step_ms": round(statistics.median(decode[1:]) * 1e3, 3),
    }


def replace_prefix(sizes: Sizes, extra: int) -> Sizes:
    """The same with a longer prefix."""
    return Sizes(sizes.prefix + extra, sizes.answer, sizes.heads, sizes.width)


def _new_training_length(sizes: Sizes) -> float:
    given = inputs(2, sizes)
    q, k, v = given.leaves
    return clock.seconds(
        lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=given.mask).sum().backward()  # type: ignore[no-untyped-call]
    )


def _growing_keys(sizes: Sizes) -> list[float]:
    dtype, steps = (torch.bfloat16 if clock.cuda() else torch.float32), 12
    shape = (16, sizes.heads, sizes.length + steps, sizes.width)
    keys, values = (torch.randn(shape, device=clock.device(), dtype=dtype) for _ in range(2))
    query, taken = keys[:, :, :1], []
    for end in range(sizes.length, sizes.length + steps):
        mask = torch.ones(16, 1, 1, end, dtype=torch.bool, device=query.device)
        k, v = keys[:, :, :end], values[:, :, :end]
        taken.append(clock.seconds(lambda: F.scaled_dot_product_attention(query, k, v, attn_mask=mask)))  # noqa: B023
    return taken
