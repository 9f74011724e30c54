"""Figures that are not a step's own, on their way to the loggers that the steps' metrics go to."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning.pytorch import Trainer


def log_values(trainer: Trainer, line: Mapping[str, float]) -> None:
    """Send what was measured after a step to every logger, where the curves of that step stand; rank 0 alone does it.

    Args:
        line: with ``step``; values that are no numbers are left out.
    """
    values = {name: value for name, value in line.items() if name != "step" and math.isfinite(value)}
    for logger in trainer.loggers:
        logger.log_metrics(values, step=int(line["step"]) - 1)  # Lightning counts the batches before a step
