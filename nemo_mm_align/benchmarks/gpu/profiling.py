"""One call under torch's profiler: how much of the wall time the GPU computes, and at what."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from nemo_mm_align.benchmarks.gpu import clock

KINDS = {
    "attention": ("flash", "fmha", "sdpa", "attention", "mha"),
    "product": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "sm90_"),
    "copy": ("memcpy", "memset"),
}
"""Words in the names of kernels; a kernel is of the first kind that fits, else ``other``."""
_TOP, _NAME_LENGTH = 12, 70


def kind_of(kernel: str) -> str:
    """Kind of a kernel by its name."""
    name = kernel.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "other")


def profiled(action: Callable[[], object]) -> dict[str, Any]:
    """Values for a record, none on a CPU; a profiler that fails does not cost the case its figures."""
    if not clock.cuda():
        return {}
    try:
        return _profile(action)
    except Exception as error:
        return {"profile_error": f"{type(error).__name__}: {str(error)[:120]}"}


def _profile(action: Callable[[], object]) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    clock.seconds(action)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        start = time.perf_counter()
        action()
        clock.synchronize()
        wall = time.perf_counter() - start
    kernels = [
        (event.key, event.self_device_time_total / 1e6, event.count)
        for event in found.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA and event.self_device_time_total
    ]
    return summary(kernels, wall)


def summary(kernels: list[tuple[str, float, int]], wall_s: float) -> dict[str, Any]:
    """Sum up kernels given as (name, seconds, launches)."""
    by_kind = dict.fromkeys((*KINDS, "other"), 0.0)
    for name, seconds, _ in kernels:
        by_kind[kind_of(name)] += seconds
    top = sorted(kernels, key=lambda kernel: -kernel[1])[:_TOP]
    return {
        "gpu_busy": round(sum(by_kind.values()) / wall_s, 3),
        "launches": sum(count for _, _, count in kernels),
        "profiled_wall_s": round(wall_s, 4),
        "gpu_seconds": {kind: round(seconds, 4) for kind, seconds in by_kind.items()},
        "top_kernels": [[name[:_NAME_LENGTH], round(seconds * 1e3, 2), count] for name, seconds, count in top],
    }
