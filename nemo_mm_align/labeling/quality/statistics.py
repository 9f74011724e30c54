"""Sums over a stream: memory does not grow with the number of annotations."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from nemo_mm_align.core.running_mean import Mean

BUFFERED_ROWS = 1000


class Correlations:
    """Pearson correlations between named columns; rows are taken in by the thousand (Chan's update)."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._count = 0
        self._mean = np.zeros(len(names))
        self._products = np.zeros((len(names), len(names)))
        self._rows: list[list[float]] = []

    def add(self, values: list[float]) -> None:
        """Take one row in, a value per name."""
        self._rows.append(values)
        if len(self._rows) == BUFFERED_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        rows, self._rows = np.array(self._rows, dtype=float), []
        mean, count = rows.mean(axis=0), len(rows)
        total, delta = self._count + count, mean - self._mean
        self._products += (rows - mean).T @ (rows - mean) + np.outer(delta, delta) * self._count * count / total
        self._mean += delta * count / total
        self._count = total

    def matrix(self) -> np.ndarray:
        """Return the correlations; nan where a column is constant."""
        self._flush()
        constant = [self.is_constant(name) for name in self.names]
        deviations = np.sqrt(np.where(constant, np.nan, np.diag(self._products)))
        return self._products / np.outer(deviations, deviations)

    def mean(self, name: str) -> float:
        """Return the mean of a column."""
        self._flush()
        return float(self._mean[self.names.index(name)])

    def is_constant(self, name: str) -> bool:
        """Whether a column has one value only."""
        self._flush()
        index = self.names.index(name)
        return bool(self._products[index, index] <= 1e-12 * self._count)

    def between(self, first: str, second: str) -> float:
        """Return the correlation of two columns; nan where one is constant."""
        return float(self.matrix()[self.names.index(first), self.names.index(second)])


@dataclass
class Histogram:
    """Counts of values, in `bins` of equal width between two ends, or of the whole numbers where `bins` is None."""

    minimum: float
    maximum: float
    bins: int | None = None
    counts: Counter[float] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Count one value; a bin is named by its lower end."""
        self.counts[value if self.bins is None else self._bin(value)] += 1

    @property
    def values(self) -> list[float]:
        """Every value that can be counted."""
        if self.bins is None:
            return [float(value) for value in range(math.ceil(self.minimum), math.floor(self.maximum) + 1)]
        return [self.minimum + index * self.width for index in range(self.bins)]

    @property
    def width(self) -> float:
        """Distance between two values."""
        return 1.0 if self.bins is None else (self.maximum - self.minimum) / self.bins

    def _bin(self, value: float) -> float:
        assert self.bins is not None
        index = min(self.bins - 1, int((value - self.minimum) / self.width + 1e-9))
        return self.minimum + index * self.width


class Timeline:
    """Means over equal stretches of a stream of unknown length: blocks are merged in pairs when there are too many."""

    def __init__(self, max_blocks: int = 600) -> None:
        self.max_blocks, self.block_size = max_blocks, 1
        self.blocks: list[Mean] = []

    def add(self, value: float) -> None:
        """Take the next value in."""
        if not self.blocks or self.blocks[-1].count >= self.block_size:
            if len(self.blocks) >= self.max_blocks:
                pairs = zip(self.blocks[::2], self.blocks[1::2], strict=True)
                self.blocks = [first.merged(second) for first, second in pairs]
                self.block_size *= 2
            self.blocks.append(Mean())
        self.blocks[-1].add(value)

    def parts(self, count: int) -> list[Mean]:
        """Return so many stretches of (nearly) equal length, first to last."""
        edges = [round(index * len(self.blocks) / count) for index in range(count + 1)]
        return [_merged(self.blocks[low:high]) for low, high in itertools.pairwise(edges)]


def _merged(blocks: list[Mean]) -> Mean:
    result = Mean()
    for block in blocks:
        result = result.merged(block)
    return result
