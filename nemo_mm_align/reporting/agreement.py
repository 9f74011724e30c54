"""Agreement of two ratings of the same answers, with bootstrap intervals over prompts.

Answers to one prompt resemble each other, so prompts are resampled, not answers: n prompts are drawn with replacement,
which gives every answer the weight with which its prompt was drawn; all measures below are sums with such weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
MEASURES = ("pearson", "spearman", "kappa", "mad", "exact")
"""Pearson; Spearman; quadratic weighted kappa; mean absolute difference; share of equal values."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; both are None where it is not defined (a constant rater)."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval, if there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class PairwiseAccuracy:
    """How often the first orders two answers to a prompt as the second does.

    Args:
        accuracy: over pairs that the second orders; a tie of the first counts one half.
        decided: over those of them that the first orders, too.
        pairs: that the second orders; `ties` of them the first does not; `undecided` pairs the second does not order.
    """

    accuracy: Estimate
    decided: Estimate
    pairs: int
    ties: int
    undecided: int


def agreement(
    first: np.ndarray, second: np.ndarray, prompts: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Estimate]:
    """Return `MEASURES` of two ratings.

    Args:
        first, second: float [answers], the values that two raters gave.
        prompts: int [answers], 0 to number of prompts - 1: which prompt an answer belongs to.
        seed: of the resampling.
    """
    count = int(prompts.max()) + 1 if len(prompts) else 0
    first_codes, second_codes = (np.unique(values, return_inverse=True)[1] for values in (first, second))

    def measure(weights: np.ndarray) -> np.ndarray:
        return _measures(first, second, first_codes, second_codes, weights[prompts])

    return dict(zip(MEASURES, bootstrap(measure, count, seed, resamples), strict=True))


def pairwise_accuracy(
    credits: np.ndarray, decided: np.ndarray, prompts: np.ndarray, undecided: int, seed: int = 0
) -> PairwiseAccuracy:
    """Return the accuracy over pairs of answers.

    Args:
        credits: float [pairs], 1 where both raters order the pair alike, 0 where not, 0.5 where the first does not.
        decided: bool [pairs], whether the first orders the pair.
        prompts: int [pairs], which prompt a pair belongs to.
        undecided: number of pairs left out, since the second does not order them.
    """
    count = int(prompts.max()) + 1 if len(prompts) else 0

    def measure(weights: np.ndarray) -> np.ndarray:
        weight = weights[prompts]
        return np.array([mean(credits, weight), mean(credits, weight * decided)])

    accuracy, among_decided = bootstrap(measure, count, seed)
    ties = int((~decided).sum())
    return PairwiseAccuracy(accuracy, among_decided, len(credits), ties, undecided)


def pair_credits(
    first: np.ndarray, second: np.ndarray, prompts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the arguments of `pairwise_accuracy` for two scores [answers] of the same answers."""
    credits: list[float] = []
    owners: list[int] = []
    undecided = 0
    order = np.argsort(prompts, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(prompts[order])) + 1):
        for position, one in enumerate(group):
            for other in group[position + 1 :]:
                wanted, got = np.sign(second[one] - second[other]), np.sign(first[one] - first[other])
                if wanted == 0:
                    undecided += 1
                else:
                    credits.append(0.5 + 0.5 * float(wanted * got))
                    owners.append(int(prompts[one]))
    values = np.asarray(credits)
    return values, values != 0.5, np.asarray(owners, dtype=int), undecided


def quadratic_kappa(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 - observed / expected squared difference.

    Expected is over independent raters with the same distributions, hence var a + var b + (mean a - mean b)^2. Values
    count by their distance, so that the formula holds for any scale.
    """
    mean_first, mean_second = mean(first, weights), mean(second, weights)
    spread = mean((first - mean_first) ** 2, weights) + mean((second - mean_second) ** 2, weights)
    expected = spread + (mean_first - mean_second) ** 2
    return 1 - mean((first - second) ** 2, weights) / expected if expected > 0 else np.nan


def _measures(
    first: np.ndarray, second: np.ndarray, first_codes: np.ndarray, second_codes: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    difference = np.abs(first - second)
    return np.array(
        [
            _pearson(first, second, weights),
            _pearson(_ranks(first_codes, weights), _ranks(second_codes, weights), weights),
            quadratic_kappa(first, second, weights),
            mean(difference, weights),
            mean(difference < 1e-9, weights),
        ]
    )


def _pearson(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    first, second = first - mean(first, weights), second - mean(second, weights)
    scale = np.sqrt(mean(first**2, weights) * mean(second**2, weights))
    return mean(first * second, weights) / scale if scale > 1e-12 else np.nan


def _ranks(codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks with ties, an answer of weight w counting as w answers."""
    counts = np.bincount(codes, weights)
    return (np.cumsum(counts) - counts / 2)[codes]


def mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean of values; nan where nothing has a weight."""
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else np.nan


def bootstrap(
    measure: Callable[[np.ndarray], np.ndarray], count: int, seed: int, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Return each measure over all prompts, with percentiles over resampled ones.

    Args:
        measure: maps the weights of the prompts, float [count], to the measures, float [measures].
        count: number of prompts.
        seed: of the resampling.
    """
    if count == 0:
        return [Estimate(None)] * len(measure(np.zeros(0)))
    values = measure(np.ones(count))
    if count == 1:
        return [Estimate(_number(value)) for value in values]
    generator = np.random.default_rng(seed)
    drawn = [
        measure(np.bincount(generator.integers(0, count, count), minlength=count).astype(float))
        for _ in range(resamples)
    ]
    result = []
    for value, column in zip(values, np.array(drawn).T, strict=True):
        known = column[~np.isnan(column)]
        bounds = np.percentile(known, [2.5, 97.5]) if len(known) and not np.isnan(value) else (np.nan, np.nan)
        result.append(Estimate(_number(value), _number(bounds[0]), _number(bounds[1])))
    return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def as_json(measures: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    """Return measures as ``{name: [value, low, high]}``."""
    return {name: [item.value, item.low, item.high] for name, item in measures.items()}
