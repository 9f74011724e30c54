"""Weights of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence


def effective_size(log_weights: Sequence[float]) -> float:
    """Return the effective sample size of weights that are given by their logarithms: 1 / (sum of squares of their shares).

    It is their number where all weigh alike, 1 where one has all the weight (Kong, 1992).
    """
    top = max(log_weights)
    weights = [math.exp(value - top) for value in log_weights]
    return sum(weights) ** 2 / sum(weight * weight for weight in weights)
