"""GPU types: what a layout has to fit into."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.units import GIB

REFERENCE_GPU = "h100_80gb"
"""What estimates are for where nothing else is asked."""


@dataclass(frozen=True)
class GPU:
    """One type of GPU in its usual node.

    Args:
        memory: bytes that a process can allocate, as the driver reports them, rounded down.
        per_node: GPUs joined by the fast links of one node.
        bf16_flops: dense bf16 operations per second of the data sheet.
        fp8: whether it has FP8 units.
        node_bandwidth: bytes per second, one direction, between GPUs of a node.
        network_bandwidth: the same between nodes, per GPU.
        memory_bandwidth: bytes per second of its own memory, of the data sheet.
    """

    name: str
    memory: float
    per_node: int
    bf16_flops: float
    fp8: bool
    node_bandwidth: float
    network_bandwidth: float
    memory_bandwidth: float


_ALL = (
    GPU("a100_40gb", 39.3 * GIB, 8, 312e12, False, 300e9, 25e9, 1.555e12),
    GPU("a100_80gb", 79.0 * GIB, 8, 312e12, False, 300e9, 25e9, 2.039e12),
    GPU("l40s_48gb", 44.3 * GIB, 8, 362e12, True, 25e9, 25e9, 0.864e12),
    GPU("h100_80gb", 79.0 * GIB, 8, 989e12, True, 450e9, 50e9, 3.35e12),
    GPU("h200_141gb", 139.5 * GIB, 8, 989e12, True, 450e9, 50e9, 4.8e12),
    GPU("b200_180gb", 178.0 * GIB, 8, 2250e12, True, 900e9, 50e9, 8e12),
)
GPUS = {gpu.name: gpu for gpu in _ALL}


def data_sheet_rate(device_name: str) -> float | None:
    """Return dense bf16 operations per second of a card by the name that its driver gives it; None for an unknown one.

    Args:
        device_name: for example ``NVIDIA H100 80GB HBM3``.
    """
    words = device_name.lower().replace("-", " ").split()
    return next((gpu.bf16_flops for gpu in _ALL if gpu.name.partition("_")[0] in words), None)


def find_gpu(name: str) -> GPU:
    """Return the GPU called `name`; raise `UserError` for an unknown one."""
    if name not in GPUS:
        raise UserError(f"gpu={name!r}: choose from {', '.join(GPUS)}.")
    return GPUS[name]
