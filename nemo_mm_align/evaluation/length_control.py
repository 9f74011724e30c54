"""A judged difference with length held equal: what would be left of it if both answers were equally long.

Over the prompts that both have, with d the difference of a judged value, w the difference in words and s the sample standard
deviation of w,

    d = intercept + slope x tanh(w / s)         (least squares)

and the intercept is the length-controlled difference: the regression's prediction at w = 0. It is AlpacaEval's idea (Dubois et
al., arXiv 2404.04475) with a line in the logistic function's place, since judged values are no wins. s is a unit: that of the
whole set, in resamples too. Where all answers differ by the same number of words the difference is the plain mean: nothing can be
told of length then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import CONFIDENCE, Interval

FEWEST = 3
"""Pairs that a line with two coefficients is drawn through."""

RESAMPLES = 1000
_HELD = 2_000_000
"""Weights that are held at once (16 MB)."""


@dataclass(frozen=True)
class LengthControlled:
    """A length-controlled difference.

    Args:
        difference: at equal length.
        plain: the mean difference, whatever the lengths.
        slope: what a difference in length is worth: the change from equal length to far longer, tanh going from 0 to 1.
        n: prompts that both have.
        interval: of `difference`, by resampling groups of prompts; None where there are fewer than two groups.
    """

    difference: float
    plain: float
    slope: float
    n: int
    interval: Interval | None = None


def length_controlled(
    ours: Sequence[ScoredAnswer],
    base: Sequence[ScoredAnswer],
    value: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LengthControlled | None:
    """Return how ours differ from the base's answers in a value, at equal length.

    Args:
        ours, base: scored answers to the same prompts; those that lack the value are in no pair.
        value: name in `ScoredAnswer.values`, for example ``score`` or ``judged.helpfulness``.
        resamples: of the interval: prompts of a group (`ScoredAnswer.group`) are drawn together.
        seed: of the resamples.

    Returns:
        None with fewer than `FEWEST` pairs.
    """
    theirs = {answer.prompt_id: answer for answer in base if value in answer.values}
    pairs = [(one, theirs[one.prompt_id]) for one in ours if value in one.values and one.prompt_id in theirs]
    if len(pairs) < FEWEST:
        return None
    difference_A = np.array([one.values[value] - other.values[value] for one, other in pairs])
    length_A = length_of(np.array([float(one.num_words - other.num_words) for one, other in pairs]))
    intercept, slope = (float(found[0]) for found in lines(np.ones((1, len(pairs))), difference_A, length_A))
    return LengthControlled(
        intercept,
        float(difference_A.mean()),
        slope,
        len(pairs),
        _interval([one.group or f"\0{one.prompt_id}" for one, _ in pairs], difference_A, length_A, resamples, seed),
    )


def length_of(words_A: np.ndarray) -> np.ndarray:
    """Return the regression's feature, [A], of differences in words; 0 where all are equal."""
    spread = float(np.std(words_A, ddof=1))
    feature_A: np.ndarray = np.tanh(words_A / spread) if spread > 0 else np.zeros(len(words_A))
    return feature_A


def lines(weights_RA: np.ndarray, difference_A: np.ndarray, length_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intercepts and slopes, [R] each, of the line through answers that count as often as they were drawn.

    Args:
        weights_RA: how often each of the A answers was drawn in each of the R resamples.
        difference_A: of the value.
        length_A: see `length_of`.
    """
    total_R = weights_RA.sum(1)
    length_R, judged_R = weights_RA @ length_A / total_R, weights_RA @ difference_A / total_R
    variance_R = weights_RA @ length_A**2 / total_R - length_R**2
    shared_R = weights_RA @ (length_A * difference_A) / total_R - length_R * judged_R
    varies_R = variance_R > 1e-12
    slope_R = np.where(varies_R, shared_R / np.where(varies_R, variance_R, 1), 0.0)
    return judged_R - slope_R * length_R, slope_R


def _interval(
    groups: Sequence[str], difference_A: np.ndarray, length_A: np.ndarray, resamples: int, seed: int
) -> Interval | None:
    names, group_A = np.unique(groups, return_inverse=True)
    if len(names) < 2 or resamples < 1:
        return None
    found = [
        lines(weights_RG[:, group_A], difference_A, length_A)[0]
        for weights_RG in _drawn(len(names), len(groups), resamples, seed)
    ]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(found), [tail, 100 - tail])
    return Interval(low=float(low), high=float(high), over="prompts")


def _drawn(groups: int, answers: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group was drawn, [r, G], in chunks; `resamples` rows together."""
    generator = np.random.default_rng(seed)
    rows = max(1, _HELD // answers)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        yield generator.multinomial(groups, np.full(groups, 1 / groups), size=count).astype(float)
