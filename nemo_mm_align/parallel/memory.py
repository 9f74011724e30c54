"""The most memory that a rank has held, as the device's allocator or the kernel of the operating system counted it."""

from __future__ import annotations

from pathlib import Path

import torch

from nemo_mm_align.parallel import runtime

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Return the peak of this process so far: of tensors on a GPU, else of resident memory (0 where Linux does not tell).

    The allocator counts on the host, when a tensor is made: asking it waits for nothing.
    """
    if runtime.device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def peak_of_all_ranks() -> torch.Tensor:
    """Return the fullest rank's peak in bytes, float64 [1], on the device: reading it is the caller's to do; all ranks call."""
    peak_1 = torch.full((1,), float(peak_bytes()), dtype=torch.float64, device=runtime.device())
    torch.distributed.all_reduce(peak_1, torch.distributed.ReduceOp.MAX)
    return peak_1
