"""Bootstrap over groups of prompts: what belongs together (questions about one picture) is drawn together.

Percentile intervals of Efron (1979), for clusters as in Davison and Hinkley (1997), section 3.8: G groups are drawn with
replacement from G, which gives every answer the number of times that its group was drawn as a weight. Every figure of every
method is computed of the same weights, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import CONFIDENCE

RESAMPLES = 1000
_CHUNK = 2_000_000
"""Weights that are held at once (16 MB)."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class Groups:
    """Which group each prompt belongs to, 0 to `count` - 1."""

    of: Mapping[str, int]
    count: int


def groups_of(methods: Sequence[Sequence[ScoredAnswer]]) -> Groups:
    """Return the groups of the prompts that were answered; a prompt without one is a group of its own."""
    named: dict[str, str] = {}
    for answer in (answer for answers in methods for answer in answers):
        named[answer.prompt_id] = named.get(answer.prompt_id) or answer.group
    numbers: dict[tuple[bool, str], int] = {}
    of = {
        prompt: numbers.setdefault((bool(group), group or prompt), len(numbers))
        for prompt, group in sorted(named.items())
    }
    return Groups(of, len(numbers))


@dataclass(frozen=True)
class Mean:
    """A mean over answers: the sum and the number of its values in each group, [G] each."""

    sums_G: np.ndarray
    counts_G: np.ndarray


def mean_of(values: Mapping[str, float], groups: Groups) -> Mean:
    """Return the mean of values by prompt."""
    group_A = np.array([groups.of[prompt] for prompt in values], dtype=np.int64)
    return Mean(
        np.bincount(group_A, np.array(list(values.values()), dtype=float), groups.count),
        np.bincount(group_A, minlength=groups.count).astype(float),
    )


@dataclass(frozen=True)
class Whole:
    """A figure of a whole set of answers.

    Args:
        compute: from weights [R, A] to the figure of each resample, [R].
        group_A: which group each of the A answers belongs to.
        resamples: how many are worth its cost.
    """

    compute: Callable[[np.ndarray], np.ndarray]
    group_A: np.ndarray
    resamples: int = RESAMPLES


def resample(
    figures: Mapping[Key, Mean | Whole], groups: Groups, resamples: int = RESAMPLES, seed: int = 0
) -> dict[Key, np.ndarray]:
    """Return each figure of every resample, [R]; NaN where a resample has nothing of it.

    Args:
        figures: by any key.
        groups: which are drawn.
        resamples: R; of a `Whole`, no more than its own.
        seed: of the drawing.
    """
    means = [key for key, figure in figures.items() if isinstance(figure, Mean)]
    wholes = {key: figure for key, figure in figures.items() if isinstance(figure, Whole)}
    parts: dict[Key, list[np.ndarray]] = {key: [] for key in figures}
    sums_GK, counts_GK = _columns([figure for figure in figures.values() if isinstance(figure, Mean)], groups.count)
    done = 0
    for weights_RG in drawn(groups.count, resamples, seed):
        if means:
            with np.errstate(divide="ignore", invalid="ignore"):
                found_RK = (weights_RG @ sums_GK) / (weights_RG @ counts_GK)
            for column, key in enumerate(means):
                parts[key].append(found_RK[:, column])
        wanted = {key: whole for key, whole in wholes.items() if done < whole.resamples}
        for key, found_R in _wholes(wanted, weights_RG, done):
            parts[key].append(found_R)
        done += len(weights_RG)
    return {key: np.concatenate(found) if found else np.zeros(0) for key, found in parts.items()}


def drawn(groups: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each group was drawn, [r, G], in chunks of which one is held at a time; R rows together."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, groups))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        places = generator.integers(0, groups, (count, groups)) + groups * np.arange(count)[:, None]
        yield np.bincount(places.ravel(), minlength=count * groups).reshape(count, groups).astype(float)


def percentile_interval(figures_R: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval; None where fewer than half of the resamples have the figure."""
    known = figures_R[~np.isnan(figures_R)]
    if len(known) * 2 <= len(figures_R):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def _columns(means: Sequence[Mean], groups: int) -> tuple[np.ndarray, np.ndarray]:
    if not means:
        return np.zeros((groups, 0)), np.zeros((groups, 0))
    return np.stack([mean.sums_G for mean in means], 1), np.stack([mean.counts_G for mean in means], 1)


def _wholes(wholes: Mapping[Key, Whole], weights_RG: np.ndarray, done: int) -> Iterator[tuple[Key, np.ndarray]]:
    """Spread the groups' weights over answers, once for all figures of the same answers."""
    every = np.arange(weights_RG.shape[1])
    spread: dict[bytes, np.ndarray] = {}
    for key, whole in wholes.items():
        weights_RA = weights_RG
        if not np.array_equal(whole.group_A, every):
            name = whole.group_A.tobytes()
            if name not in spread:
                spread = {name: weights_RG[:, whole.group_A]}  # of the last alone: memory stays flat
            weights_RA = spread[name]
        yield key, whole.compute(weights_RA[: whole.resamples - done])
