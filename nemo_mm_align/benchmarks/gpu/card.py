"""What the project knows of the card that is there."""

from __future__ import annotations

import torch

from nemo_mm_align.capacity.gpus import data_sheet_rate


def data_sheet_flops() -> float | None:
    """Dense bf16 operations per second of the card's data sheet; ``None`` for a card that the project does not list."""
    return data_sheet_rate(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
