"""Step ``ceilings``: what this card reaches at best, so that other figures have a denominator of the same run."""

from __future__ import annotations

from typing import Any

import torch

from nemo_mm_align.benchmarks.gpu import card, clock
from nemo_mm_align.benchmarks.gpu.records import Context

PRODUCT = "bf16 product"
_SIDE, _COPIED, _LAUNCHES = 8192, 2**30, 5000


def measure(context: Context) -> None:
    """A square product, a copy of elements within memory, many small kernels."""
    context.recorder.case(PRODUCT, lambda: product(256 if context.toy else _SIDE))
    context.recorder.case("copy within memory", lambda: copy(2**16 if context.toy else _COPIED))
    context.recorder.case("launches of a small kernel", lambda: launches(50 if context.toy else _LAUNCHES))


def product(side: int) -> dict[str, Any]:
    """Operations per second of one product of square bf16 matrices."""
    a, b = (torch.randn(side, side, device=clock.device(), dtype=torch.bfloat16) for _ in range(2))
    taken = clock.median_seconds(lambda: a @ b, repeats=10, warmup=3)
    sheet = card.data_sheet_flops()
    return {"side": side, "tflops": round(2 * side**3 / taken / 1e12, 3), "data_sheet_tflops": sheet and sheet / 1e12}


def copy(elements: int) -> dict[str, Any]:
    """Bytes read and written per second."""
    x = torch.randn(elements, device=clock.device(), dtype=torch.bfloat16)
    taken = clock.median_seconds(x.clone, repeats=10, warmup=3)
    return {"tb_per_s": round(2 * 2 * elements / taken / 1e12, 3)}


def launches(count: int) -> dict[str, Any]:
    """Microseconds from one launch to the next where the kernels themselves take next to nothing."""
    x = torch.zeros(8, device=clock.device())

    def many() -> None:
        for _ in range(count):
            x.add_(1.0)

    return {"us_per_launch": round(clock.median_seconds(many, repeats=3) / count * 1e6, 2)}
