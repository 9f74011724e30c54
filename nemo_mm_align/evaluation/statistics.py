"""Figures that are no mean over answers: F1 of counts, a win rate of a regression, a share of groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Columns = Mapping[str, np.ndarray]
"""Per name, one number per answer, [A]; NaN where an answer has none."""


@dataclass(frozen=True)
class Statistic:
    """A figure of a whole set of answers, in a form that resampling can compute many times at once.

    Args:
        measure: the name that it goes by among the task's measures (``name.part`` of a grouped one).
        columns: names in `ScoredAnswer.columns` that it is computed of. Answers that lack one of them do not enter.
        compute: from weights [R, A] (how often each answer was drawn, per resample; all ones for the figure itself) and the
            columns [A] each to the figure of each resample, [R]; NaN where it cannot be told.
        resamples: how many are worth its cost.
    """

    measure: str
    columns: tuple[str, ...]
    compute: Callable[[np.ndarray, Columns], np.ndarray]
    resamples: int = 1000


def ratio(numerator: str, denominator: str, times: float = 1.0) -> Callable[[np.ndarray, Columns], np.ndarray]:
    """Return the `compute` of a ratio of sums; NaN where the denominator's sum is 0."""

    def compute(weights_RA: np.ndarray, columns: Columns) -> np.ndarray:
        below_R = weights_RA @ columns[denominator]
        with np.errstate(divide="ignore", invalid="ignore"):
            found_R: np.ndarray = np.where(below_R != 0, times * (weights_RA @ columns[numerator]) / below_R, np.nan)
        return found_R

    return compute
