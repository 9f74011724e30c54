"""Intervals of steering figures: over seeds where there are several runs, by resampling prompts where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from nemo_mm_align.evaluation.intervals import CONFIDENCE, Interval, t_interval
from nemo_mm_align.evaluation.steering_figures import Sweep, followings

RESAMPLES, SEED = 1000, 0

Drawn = Callable[[np.ndarray], float]
"""Computes a figure of the answers at these places."""


def over_seeds(values: Sequence[float | None]) -> Interval | None:
    """Return Student's interval over runs; None for fewer than two."""
    bounds = t_interval([value for value in values if value is not None])
    return Interval(low=bounds[0], high=bounds[1], over="seeds") if bounds else None


def over_prompts(sweep: Sweep) -> dict[str, Interval]:
    """Return the intervals of a single run's figures, by their names in `SteeringResult`.

    Percentiles of 1,000 resamples (Efron 1979): prompts are drawn with replacement, all answers to a prompt together, and to
    prompts of one group (`ScoredAnswer.group`).

    Returns:
        Nothing where there are fewer than two groups of prompts.
    """
    groups = _groups(sweep)
    if len(groups) < 2 or not sweep.is_asked:
        return {}
    figures = _figures(sweep)
    generator = np.random.default_rng(SEED)
    found = np.empty((RESAMPLES, len(figures)))
    for row in found:
        drawn = np.concatenate([groups[place] for place in generator.integers(0, len(groups), len(groups))])
        row[:] = [compute(drawn) for compute in figures.values()]
    return {name: one for name, column in zip(figures, found.T, strict=True) if (one := _percentiles(column))}


def _groups(sweep: Sweep) -> list[np.ndarray]:
    places: dict[str, list[int]] = {}
    for place, answer in enumerate(sweep.answers):
        places.setdefault(answer.group or f"\0{answer.prompt_id}", []).append(place)
    return [np.array(found) for found in places.values()]


def _figures(sweep: Sweep) -> dict[str, Drawn]:
    asked, judged = np.array(sweep.asked), np.array(sweep.judged)
    follows = followings(sweep)
    never = np.array(
        [float(follows[one.prompt_id].never_against) if one.prompt_id in follows else np.nan for one in sweep.answers]
    )
    counts = dict(zip(*np.unique([answer.prompt_id for answer in sweep.answers], return_counts=True), strict=True))
    weight = np.array([1 / counts[answer.prompt_id] for answer in sweep.answers])

    def spearman(drawn: np.ndarray) -> float:
        return _correlation(stats.rankdata(asked[drawn]), stats.rankdata(judged[drawn]))

    def slope(drawn: np.ndarray) -> float:
        centred = asked[drawn] - asked[drawn].mean()
        squares = float(centred @ centred)
        return float(centred @ judged[drawn]) / squares if squares > 0 else np.nan

    def never_against(drawn: np.ndarray) -> float:
        known = drawn[~np.isnan(never[drawn])]
        return float(np.average(never[known], weights=weight[known])) if len(known) else np.nan

    return {"spearman": spearman, "slope": slope, "never_against": never_against}


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(), right - right.mean()
    size = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / size if size > 0 else 0.0


def _percentiles(column: np.ndarray) -> Interval | None:
    known = column[~np.isnan(column)]
    if len(known) * 2 <= len(column):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return Interval(low=float(low), high=float(high), over="prompts")
