"""P-values of paired differences, and their correction for how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

PERMUTATIONS = 10_000
_EXACT = 13
"""Up to so many groups that differ all 2^n sign flips are made: they are fewer than `PERMUTATIONS`."""
_CHUNK = 4_000_000
Key = TypeVar("Key")


def sign_flip_p_values(differences_GK: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0) -> list[float]:
    """Return for each of K columns how often chance alone differs as much: two-sided, signs of groups flipped.

    Where neither of two methods is better, each group's difference is as likely to be the other way round (Fisher 1935; for
    systems on the same test set Noreen 1989). Groups without a difference change nothing and are left out. Of random flips the
    observed one counts as one more (Phipson and Smyth 2010), so that no p-value is 0.

    Args:
        differences_GK: sums of the differences in each group.
        permutations: random flips, where there are too many to make all.
        seed: of them.
    """
    found = [_exact(column[column != 0]) for column in differences_GK.T]
    sampled = [index for index, p in enumerate(found) if p is None]
    if sampled:
        for index, p in zip(sampled, _sampled(differences_GK[:, sampled], permutations, seed), strict=True):
            found[index] = p
    return [p for p in found if p is not None]


def bootstrap_p_value(differences_R: np.ndarray, groups: int) -> float | None:
    """Return twice the share of resamples on the other side of 0 (Efron and Tibshirani 1993); None if none has the figure.

    Of few groups all resamples may lie on one side by chance: no p-value is below what all signs of so many `groups` allow.
    """
    known = differences_R[~np.isnan(differences_R)]
    if not len(known):
        return None
    smaller = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, max(2 * (1 + smaller) / (1 + len(known)), 2.0 ** (1 - groups)))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return p-values corrected for their number: the chance of a single false one stays below them (Holm 1979)."""
    corrected: dict[Key, float] = {}
    highest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[key]))
        corrected[key] = highest
    return corrected


def comparisons(count: int) -> str:
    """Say how many comparisons were corrected for."""
    return f"corrected for {count} comparison" + ("" if count == 1 else "s")


def _exact(differences_G: np.ndarray) -> float | None:
    """P-value by all sign flips; None for too many groups."""
    if len(differences_G) > _EXACT:
        return None
    bits = np.arange(2 ** len(differences_G))[:, None] >> np.arange(len(differences_G)) & 1
    return float(np.mean(_as_far(np.abs((1 - 2 * bits) @ differences_G), differences_G[:, None])))


def _sampled(differences_GK: np.ndarray, permutations: int, seed: int) -> Sequence[float]:
    moving = differences_GK[(differences_GK != 0).any(1)]
    as_far_K = np.zeros(moving.shape[1])
    for signs_PG in _signs(len(moving), permutations, seed):
        as_far_K += _as_far(np.abs(signs_PG @ moving), moving).sum(0)
    return [float(p) for p in (as_far_K + 1) / (permutations + 1)]


def _as_far(sums: np.ndarray, differences_GK: np.ndarray) -> np.ndarray:
    """Whether sums are as far from 0 as the observed one; rounding must not part what is equal."""
    observed = np.abs(differences_GK.sum(0))
    slack = 1e-9 * np.abs(differences_GK).sum(0)
    found: np.ndarray = sums >= observed - slack
    return found


def _signs(groups: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(1, groups))
    for start in range(0, permutations, rows):
        count = min(rows, permutations - start)
        packed = generator.integers(0, 256, (count, -(-groups // 8)), dtype=np.uint8)
        yield 1.0 - 2.0 * np.unpackbits(packed, axis=1, count=groups)
