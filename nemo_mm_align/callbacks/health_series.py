"""The recorded numbers of a run as its rules look at them: the first and the last fifth of the steps, with their noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nemo_mm_align.core.run_health import ImageSensitivity

TAIL = 0.2
"""Share of the steps that stands for the start, and for the end, of a run."""


class Window(NamedTuple):
    """Mean of some steps, and the standard error of it: 0 of a single step."""

    mean: float
    standard_error: float


class Ends(NamedTuple):
    """Both ends of a curve."""

    first: Window
    last: Window

    @property
    def change(self) -> float:
        """Last less first."""
        return self.last.mean - self.first.mean

    @property
    def noise(self) -> float:
        """Standard error of the change."""
        return math.hypot(self.first.standard_error, self.last.standard_error)


@dataclass(frozen=True)
class Series:
    """What a run has recorded.

    Args:
        lines: of its metrics file, oldest first.
        clip_grad: longest gradient that an update takes; 0: any.
        images: what is known of its images.
        validation: lines of its validations, oldest first.
        guards: lines of the answers that it gave, oldest first.
        lengths: how short and how long its answers may become, as multiples of their length at the beginning.
    """

    lines: Sequence[Mapping[str, float]]
    clip_grad: float = 0.0
    images: ImageSensitivity | None = None
    validation: Sequence[Mapping[str, float]] = ()
    guards: Sequence[Mapping[str, float]] = ()
    lengths: tuple[float, float] = (0.0, math.inf)

    def values(self, name: str) -> list[float]:
        """Return a metric's finite values, oldest first; steps that have none are passed over."""
        return _finite(self.lines, name)

    def ends(self, name: str) -> Ends | None:
        """Return both ends of a metric; None where one of them has no value."""
        size = max(1, int(len(self.lines) * TAIL))
        first, last = _finite(self.lines[:size], name), _finite(self.lines[-size:], name)
        return Ends(_window(first), _window(last)) if first and last else None


def _finite(lines: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [value for line in lines if math.isfinite(value := line.get(name, math.nan))]


def _window(values: Sequence[float]) -> Window:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Window(statistics.fmean(values), error)
