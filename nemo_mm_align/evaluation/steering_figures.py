"""Figures of one attribute's sweep: answers that were asked for its values, the other attributes being at their defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from nemo_mm_align.evaluation.answers import ScoredAnswer


@dataclass(frozen=True)
class Sweep:
    """One model's answers in one run.

    Args:
        name: the attribute that was asked for.
        answers: with `asked` and `ratings`.
    """

    name: str
    answers: Sequence[ScoredAnswer]

    @property
    def asked(self) -> list[float]:
        """What each answer was asked for."""
        return [answer.asked[self.name] for answer in self.answers if answer.asked]

    @property
    def judged(self) -> list[float]:
        """What each answer was judged to be."""
        return [answer.ratings[self.name] for answer in self.answers]

    @property
    def is_asked(self) -> bool:
        """Whether two different values were asked for."""
        return len(set(self.asked)) > 1


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Return Spearman's correlation; 0 where one side has one value alone."""
    if len(set(left)) < 2 or len(set(right)) < 2:
        return 0.0
    return float(stats.spearmanr(left, right).statistic)


def spearman(sweep: Sweep) -> float | None:
    """Return the rank correlation of asked and judged."""
    return rank_correlation(sweep.asked, sweep.judged) if sweep.is_asked else None


def mean_error(sweep: Sweep) -> float | None:
    """Return the mean of |judged - asked|."""
    errors = [abs(judged - asked) for asked, judged in zip(sweep.asked, sweep.judged, strict=True)]
    return float(np.mean(errors)) if errors else None


def at_equal_length(sweep: Sweep) -> float | None:
    """Return the partial rank correlation of asked and judged, given the number of words (Kendall 1942, on ranks)."""
    if not sweep.is_asked:
        return None
    words: list[float] = [answer.num_words for answer in sweep.answers]
    pairs = ((sweep.asked, sweep.judged), (sweep.asked, words), (sweep.judged, words))
    direct, of_asked, of_judged = (rank_correlation(*pair) for pair in pairs)
    rest = (1 - of_asked**2) * (1 - of_judged**2)
    return (direct - of_asked * of_judged) / math.sqrt(rest) if rest > 1e-9 else None


def slope(sweep: Sweep, other: str = "") -> float | None:
    """Return the least-squares change of a judged value per step asked.

    Args:
        other: the attribute that is judged; by default the one that is asked for.
    """
    judged = [answer.ratings.get(other or sweep.name) for answer in sweep.answers]
    if not sweep.is_asked or None in judged:
        return None
    return float(stats.linregress(sweep.asked, judged).slope)


def spread(sweep: Sweep) -> float | None:
    """Return the largest less the smallest of the means at each asked value."""
    if not sweep.is_asked:
        return None
    by_value: dict[float, list[float]] = {}
    for asked, judged in zip(sweep.asked, sweep.judged, strict=True):
        by_value.setdefault(asked, []).append(judged)
    means = [float(np.mean(values)) for values in by_value.values()]
    return max(means) - min(means)


@dataclass(frozen=True)
class Following:
    """How a prompt's judged values go as more is asked for.

    Args:
        never_against: none is below the one before.
        strictly: each is above the one before.
    """

    never_against: bool
    strictly: bool


def followings(sweep: Sweep) -> dict[str, Following]:
    """Return how each prompt's answers follow, by prompt id; prompts that were asked for one value alone are left out."""
    by_prompt: dict[str, dict[float, list[float]]] = {}
    for answer, asked, judged in zip(sweep.answers, sweep.asked, sweep.judged, strict=True):
        by_prompt.setdefault(answer.prompt_id, {}).setdefault(asked, []).append(judged)
    found = {}
    for prompt, by_value in by_prompt.items():
        steps = np.diff([np.mean(values) for _, values in sorted(by_value.items())])
        if len(steps):
            found[prompt] = Following(bool((steps >= 0).all()), bool((steps > 0).all()))
    return found


def never_against(sweep: Sweep) -> float | None:
    """Return the share of prompts that never go against what is asked; None where no prompt was asked for two values."""
    flags = [one.never_against for one in followings(sweep).values()]
    return float(np.mean(flags)) if flags else None


def strictly(sweep: Sweep) -> float | None:
    """Return the share of prompts that follow at every step; None where no prompt was asked for two values."""
    flags = [one.strictly for one in followings(sweep).values()]
    return float(np.mean(flags)) if flags else None
