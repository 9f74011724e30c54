"""One run's figures with bootstrap intervals, and differences between its methods with p-values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.bootstrap import (
    RESAMPLES,
    Groups,
    Mean,
    Whole,
    groups_of,
    mean_of,
    percentile_interval,
    resample,
)
from nemo_mm_align.evaluation.intervals import Interval
from nemo_mm_align.evaluation.permutation import PERMUTATIONS, bootstrap_p_value, sign_flip_p_values
from nemo_mm_align.evaluation.results import Resampling
from nemo_mm_align.evaluation.statistics import Statistic

Pair = tuple[str, str]
"""A method, and the one that it is compared with."""
Comparable = Callable[[Pair, str], bool]


@dataclass(frozen=True)
class Estimate:
    """A figure of `n` answers (a difference: of `n` prompts that both have), its interval, a difference's p-value."""

    value: float
    n: int
    interval: Interval | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class RunFigures:
    """Of one run: figures by (method, name), differences by (pair, name), and what they rest on."""

    values: Mapping[tuple[str, str], Estimate]
    differences: Mapping[tuple[Pair, str], Estimate]
    resampling: Resampling


@dataclass(frozen=True)
class _Figure:
    value: float
    n: int
    drawn: Mean | Whole


def run_figures(
    methods: Mapping[str, Sequence[ScoredAnswer]],
    statistics: Sequence[Statistic] = (),
    pairs: Sequence[Pair] = (),
    comparable: Comparable = lambda pair, name: True,
    seed: int = 0,
) -> RunFigures:
    """Return all figures of methods that answered the same prompts.

    Args:
        methods: scored answers, one per prompt.
        statistics: of the task, beside the means of `ScoredAnswer.values`.
        pairs: of methods that are compared.
        comparable: whether a pair may be compared in a figure.
        seed: of resamples and permutations.
    """
    groups = groups_of(list(methods.values()))
    values = {
        (method, name): figure
        for method, answers in methods.items()
        for name, figure in _figures(answers, statistics, groups)
    }
    differences = {
        (pair, name): figure
        for pair in pairs
        for name, figure in _differences(methods[pair[0]], methods[pair[1]], statistics, groups)
        if comparable(pair, name)
    }
    drawn: dict[tuple[str | Pair, str], Mean | Whole] = {key: one.drawn for key, one in values.items()}
    drawn |= {key: one.drawn for key, one in differences.items()}
    found = resample(drawn, groups, seed=seed)
    p_values = _p_values(differences, found, groups.count, seed)
    return RunFigures(
        {key: _estimate(one, found[key]) for key, one in values.items()},
        {key: _estimate(one, found[key], p_values.get(key)) for key, one in differences.items()},
        Resampling(
            groups=groups.count,
            prompts=len(groups.of),
            resamples=RESAMPLES,
            permutations=PERMUTATIONS,
            seed=seed,
        ),
    )


def _estimate(figure: _Figure, figures_R: np.ndarray, p_value: float | None = None) -> Estimate:
    bounds = percentile_interval(figures_R) if figure.n > 1 else None
    interval = Interval(low=bounds[0], high=bounds[1], over="prompts") if bounds else None
    return Estimate(figure.value, figure.n, interval, p_value)


def _p_values(
    differences: Mapping[tuple[Pair, str], _Figure],
    found: Mapping[tuple[str | Pair, str], np.ndarray],
    groups: int,
    seed: int,
) -> dict[tuple[Pair, str], float | None]:
    p_values = {
        key: bootstrap_p_value(found[key], min(groups, one.n))
        for key, one in differences.items()
        if isinstance(one.drawn, Whole)
    }
    sums = {key: one.drawn.sums_G for key, one in differences.items() if isinstance(one.drawn, Mean)}
    if sums:
        flipped = sign_flip_p_values(np.stack(list(sums.values()), 1), seed=seed)
        p_values |= dict(zip(sums, flipped, strict=True))
    return p_values


def answer_values(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, float]]:
    """Return, per measure, the value of each prompt that it applies to, in order of prompt id."""
    values: dict[str, dict[str, float]] = {}
    for answer in sorted(answers, key=lambda answer: answer.prompt_id):
        for name, value in answer.values.items():
            values.setdefault(name, {})[answer.prompt_id] = float(value)
    return values


def statistic_value(statistic: Statistic, answers: Sequence[ScoredAnswer]) -> tuple[float, int]:
    """Return a statistic of answers and how many it rests on; NaN where it cannot be told."""
    entering = _entering(statistic, answers)
    if not entering:
        return float("nan"), 0
    return _whole_value(statistic, entering), len(entering)


def _figures(
    answers: Sequence[ScoredAnswer], statistics: Sequence[Statistic], groups: Groups
) -> Iterator[tuple[str, _Figure]]:
    for name, values in answer_values(answers).items():
        yield name, _Figure(float(np.mean(list(values.values()))), len(values), mean_of(values, groups))
    for statistic in statistics:
        entering = _entering(statistic, answers)
        if not entering or np.isnan(value := _whole_value(statistic, entering)):
            continue
        columns = _columns(statistic, entering)
        yield statistic.measure, _Figure(value, len(entering), _whole(statistic, list(entering), groups, columns))


def _differences(
    ours: Sequence[ScoredAnswer], theirs: Sequence[ScoredAnswer], statistics: Sequence[Statistic], groups: Groups
) -> Iterator[tuple[str, _Figure]]:
    """Of what both have: an answer that nobody could score is in no pair."""
    base = answer_values(theirs)
    for name, own in answer_values(ours).items():
        pairs = {prompt: value - base[name][prompt] for prompt, value in own.items() if prompt in base.get(name, {})}
        if pairs:
            yield name, _Figure(float(np.mean(list(pairs.values()))), len(pairs), mean_of(pairs, groups))
    for statistic in statistics:
        mine, other = _entering(statistic, ours), _entering(statistic, theirs)
        both = [prompt for prompt in mine if prompt in other]
        if not both:
            continue
        mine, other = ({prompt: found[prompt] for prompt in both} for found in (mine, other))
        value = _whole_value(statistic, mine) - _whole_value(statistic, other)
        if not np.isnan(value):
            columns = _columns(statistic, mine), _columns(statistic, other)
            yield statistic.measure, _Figure(value, len(both), _whole(statistic, both, groups, *columns))


Entering = Mapping[str, ScoredAnswer]


def _entering(statistic: Statistic, answers: Sequence[ScoredAnswer]) -> Entering:
    return {
        answer.prompt_id: answer
        for answer in sorted(answers, key=lambda answer: answer.prompt_id)
        if all(name in answer.columns for name in statistic.columns)
    }


def _columns(statistic: Statistic, answers: Entering) -> dict[str, np.ndarray]:
    return {name: np.array([one.columns[name] for one in answers.values()], float) for name in statistic.columns}


def _whole_value(statistic: Statistic, answers: Entering) -> float:
    return float(statistic.compute(np.ones((1, len(answers))), _columns(statistic, answers))[0])


def _whole(
    statistic: Statistic,
    prompts: Sequence[str],
    groups: Groups,
    columns: Mapping[str, np.ndarray],
    minus: Mapping[str, np.ndarray] | None = None,
) -> Whole:
    def compute(weights_RA: np.ndarray) -> np.ndarray:
        found_R = statistic.compute(weights_RA, columns)
        return found_R if minus is None else found_R - statistic.compute(weights_RA, minus)

    group_A = np.array([groups.of[prompt] for prompt in prompts], dtype=np.int64)
    return Whole(compute, group_A, min(statistic.resamples, RESAMPLES))
