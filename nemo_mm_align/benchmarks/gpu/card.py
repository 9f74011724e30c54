"""What the project knows of the card that is there."""

from __future__ import annotations

import torch

from nemo_mm_align.capacity.gpus import GPUS


def data_sheet_flops() -> float | None:
    """Dense bf16 operations per second of the card's data sheet; ``None`` for a card that the project does not list."""
    return flops_of(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def flops_of(name: str) -> float | None:
    """The same by the name that the driver gives the card, for example ``NVIDIA H100 80GB HBM3``."""
    words = name.lower().replace("-", " ").split()
    return next((gpu.bf16_flops for key, gpu in GPUS.items() if key.partition("_")[0] in words), None)
