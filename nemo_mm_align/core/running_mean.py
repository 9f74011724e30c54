"""Mean and spread of a stream of values."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054
"""Half width of a 95 % interval in standard errors."""


@dataclass
class Mean:
    """Running mean with its normal 95 % interval (Welford's update, so that large offsets lose no digits)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Take one value in."""
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)

    def merged(self, other: Mean) -> Mean:
        """Return the mean over both."""
        count = self.count + other.count
        if count == 0:
            return Mean()
        delta = other.mean - self.mean
        squares = self.squares + other.squares + delta**2 * self.count * other.count / count
        return Mean(count, self.mean + delta * other.count / count, squares)

    @property
    def standard_error(self) -> float:
        """Of the mean; infinite below two values."""
        return math.sqrt(self.squares / (self.count - 1) / self.count) if self.count > 1 else math.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean, if there are two values."""
        half = Z95 * self.standard_error
        return (self.mean - half, self.mean + half) if self.count > 1 else None
