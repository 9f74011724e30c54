"""A line of the table as something that can be run, whichever side it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

OURS = "ours"


@dataclass(frozen=True)
class Runnable:
    """A line of the table.

    Args:
        loss: of the global batch, without a step.
        step: takes an optimizer step and returns its loss.
        real: share of computed positions that are no padding.
        positions: that a forward pass computes, padding included.
        rival: whether ours is held against it, as what a user of a peer can have.
    """

    loss: Callable[[], float]
    step: Callable[[], float]
    real: float
    positions: int
    rival: bool = False
