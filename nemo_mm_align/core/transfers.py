"""Tensors on their way to a GPU, without anybody waiting for the copy."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str | int) -> Tensor:
    """Return a tensor on `device`.

    From the host to a GPU it goes through pinned memory: a copy from pageable memory waits until the GPU has done all that
    was asked of it before.
    """
    device = torch.device(device)
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
