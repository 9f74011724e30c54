"""Timing and memory of work on the device; on a CPU the same calls, without memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from nemo_mm_align.core.units import GIB


def cuda() -> bool:
    """Whether there is a GPU."""
    return torch.cuda.is_available()


def device() -> torch.device:
    """The device that is measured."""
    return torch.device("cuda" if cuda() else "cpu")


def synchronize() -> None:
    """Wait for the device."""
    if cuda():
        torch.cuda.synchronize()


def free() -> None:
    """Give memory back that nothing refers to."""
    gc.collect()
    if cuda():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def reset_peak() -> None:
    """Forget the highest memory so far."""
    if cuda():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Most memory that tensors have taken since `reset_peak`, GiB; ``None`` on a CPU."""
    return round(torch.cuda.max_memory_allocated() / GIB, 2) if cuda() else None


def card_gib() -> float | None:
    """Memory of the card, GiB; ``None`` on a CPU."""
    return torch.cuda.mem_get_info()[1] / GIB if cuda() else None


def seconds(action: Callable[[], object]) -> float:
    """Seconds of one call, the device's work included."""
    synchronize()
    start = time.perf_counter()
    action()
    synchronize()
    return time.perf_counter() - start


def median_seconds(action: Callable[[], object], repeats: int = 4, warmup: int = 1) -> float:
    """Median seconds of `repeats` calls after `warmup` that do not count."""
    return statistics.median([seconds(action) for _ in range(warmup + repeats)][warmup:])


def rounded(values: Sequence[float], digits: int = 5) -> list[float]:
    """Numbers short enough for a line of results."""
    return [round(value, digits) for value in values]
