"""The numbers of the report: how far told values agree with judged ones, attribute by attribute and in their weighted sum.

Shapes: N answers, T attributes, P pairs of answers to one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_mm_align.evaluation.attribute_report.calibration import Calibration, calibrate
from nemo_mm_align.evaluation.attribute_report.values import Array
from nemo_mm_align.reporting.agreement import (
    Estimate,
    PairwiseAccuracy,
    agreement,
    as_json,
    pair_credits,
    pairwise_accuracy,
)

SCORE = "weighted sum"
MEASURES = ("spearman", "pearson", "mad")
_DIGITS = 9
"""Weighted sums that differ beyond are equal: they are sums of decimal fractions."""


@dataclass(frozen=True)
class Credits:
    """Pairs of answers that the judge orders, and how each was told: 1 alike, 0 otherwise, one half where it was no pair."""

    credits_P: Array
    decided_P: NDArray[np.bool_]
    prompts_P: NDArray[np.int64]
    ties: int

    def accuracy(self, seed: int) -> PairwiseAccuracy:
        """Return how often pairs were told in the judge's order."""
        return pairwise_accuracy(self.credits_P, self.decided_P, self.prompts_P, self.ties, seed)

    def minus(self, other: Credits, seed: int) -> Estimate:
        """Return by how much it is right more often than another on the same pairs, prompts resampled."""
        difference_P = self.credits_P - other.credits_P
        return pairwise_accuracy(difference_P, difference_P != 0, self.prompts_P, self.ties, seed).accuracy


@dataclass(frozen=True)
class Told:
    """How one column of told values agrees with the judged one.

    Attributes:
        answers: that have both values.
        measures: `MEASURES` with 95 % intervals; ``mad`` is the mean absolute error, in the attribute's unit.
        pairs: accuracy over pairs of answers to one prompt that the judge does not hold for equal.
        credits: of these pairs.
        calibration: of the values themselves.
    """

    answers: int
    measures: dict[str, Estimate]
    pairs: PairwiseAccuracy
    credits: Credits
    calibration: Calibration

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values; an estimate is ``[value, low, high]``."""
        pairs = {"accuracy": self.pairs.accuracy}
        return {
            "answers": self.answers,
            **as_json(self.measures),
            "pair_accuracy": as_json(pairs)["accuracy"],
            "pairs": self.pairs.pairs,
            "pairs_told_equal": self.pairs.ties,
            "pairs_judged_equal": self.pairs.undecided,
            "calibration": self.calibration.as_json(),
        }


def tell(told_N: Array, judged_N: Array, prompts_N: NDArray[np.int64], bins: int, seed: int) -> Told:
    """Compare two values of the same answers; those that lack one are left out.

    Args:
        bins: of the calibration.
        seed: of the resampling of prompts.
    """
    known_N = ~np.isnan(told_N) & ~np.isnan(judged_N)
    told_N, judged_N = told_N[known_N].round(_DIGITS), judged_N[known_N].round(_DIGITS)
    prompts_N = np.unique(prompts_N[known_N], return_inverse=True)[1]
    found = agreement(told_N, judged_N, prompts_N, seed)
    credits = Credits(*pair_credits(told_N, judged_N, prompts_N))
    return Told(
        answers=int(known_N.sum()),
        measures={name: found[name] for name in MEASURES},
        pairs=credits.accuracy(seed),
        credits=credits,
        calibration=calibrate(told_N, judged_N, prompts_N, bins, seed),
    )


def with_sum(values_NT: Array, weights: Mapping[str, float]) -> Array:
    """Return the values with their weighted sum as one more column, [N, T + 1]; nan where a weighted one is missing."""
    weights_T = np.array(list(weights.values()))
    used_T = weights_T != 0
    sum_N = values_NT[:, used_T] @ weights_T[used_T]
    return np.column_stack([values_NT, sum_N])
