"""Calibration of told values: what was judged where so much was told.

Shapes: N answers, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_mm_align.reporting.agreement import Estimate, as_json, bootstrap, mean

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Answers of similar told values: how many, and the means of what was told and judged."""

    count: int
    told: float
    judged: float


@dataclass(frozen=True)
class Calibration:
    """How judged values follow told ones.

    Attributes:
        bins: equally many answers each, by told value.
        slope, intercept: of the line through judged over told values (least squares); 1 and 0 are perfect. A slope below 1:
            differences are told larger than they are judged; above 1: smaller.
        error: expected calibration error: mean over answers of |mean judged - mean told| of their bin, in the attribute's unit.
    """

    bins: tuple[Bin, ...]
    slope: Estimate
    intercept: Estimate
    error: Estimate

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        measures = {"slope": self.slope, "intercept": self.intercept, "expected_error": self.error}
        return {**as_json(measures), "bins": [vars(item) for item in self.bins]}


def calibrate(told_N: Array, judged_N: Array, prompts_N: NDArray[np.int64], bins: int, seed: int) -> Calibration:
    """Return the calibration of told values, with intervals over prompts.

    Args:
        prompts_N: which prompt an answer belongs to, from 0.
        bins: at most so many; fewer where there are fewer answers.
    """
    bin_N = _bins(told_N, bins)

    def measure(weights: Array) -> Array:
        weights_N = weights[prompts_N]
        return np.array([*_line(told_N, judged_N, weights_N), _error(told_N, judged_N, bin_N, weights_N)])

    count = int(prompts_N.max()) + 1 if len(prompts_N) else 0
    slope, intercept, error = bootstrap(measure, count, seed)
    found = [(told_N[bin_N == place], judged_N[bin_N == place]) for place in np.unique(bin_N)]
    means = tuple(Bin(len(told), float(told.mean()), float(judged.mean())) for told, judged in found)
    return Calibration(means, slope, intercept, error)


def _bins(told_N: Array, bins: int) -> NDArray[np.int64]:
    """Number of the bin of each answer: equally many in each, equal values in the same one."""
    values, place_N, counts = np.unique(told_N, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    of_value = (middle * bins / max(1, len(told_N))).astype(np.int64).clip(0, bins - 1)
    return np.asarray(of_value[place_N]) if len(values) else np.zeros(0, np.int64)


def _line(told_N: Array, judged_N: Array, weights_N: Array) -> tuple[float, float]:
    """Slope and intercept by least squares; nan where the told values are all the same."""
    centre, level = mean(told_N, weights_N), mean(judged_N, weights_N)
    spread = mean((told_N - centre) ** 2, weights_N)
    if not spread > 1e-12:
        return np.nan, np.nan
    slope = mean((told_N - centre) * (judged_N - level), weights_N) / spread
    return slope, level - slope * centre


def _error(told_N: Array, judged_N: Array, bin_N: NDArray[np.int64], weights_N: Array) -> float:
    differences = np.bincount(bin_N, weights_N * (judged_N - told_N)) if len(bin_N) else np.zeros(1)
    total = weights_N.sum()
    return float(np.abs(differences).sum() / total) if total > 0 else np.nan
