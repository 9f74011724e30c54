"""How samples of unequal size are put into parts: replicas that compute equally long, micro batches of a token budget.

Both want the fullest part as light as can be. Longest first, each into the lightest part (Graham, SIAM J. Appl. Math. 17, 1969),
leaves parts of three or four samples about a tenth apart; exchanges between the fullest one and the others take that away.
Everything is a function of the weights alone: all ranks find the same, and a resumed run finds it again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

_EVEN = 1.002
"""Where the fullest part is so near the mean, another exchange is worth nothing."""
_ROUNDING = 1e-9
"""A gain below that may be one of rounding alone, which the next exchange would take back, for ever."""
_FULL = 0.98
"""Of rows of one length, the share that is to be no padding."""


def balance(weights: Sequence[float], parts: int) -> list[list[int]]:
    """Divide samples among so many parts whose weights are nearly equal.

    Args:
        weights: of the samples, above 0.
        parts: at most as many as samples; none of them stays empty.

    Returns:
        Places in `weights`, in order, of each part.
    """
    values = numpy.asarray(weights, dtype=numpy.float64)
    owners = _longest_first(values, parts)
    totals = numpy.bincount(owners, values, minlength=parts).astype(numpy.float64)
    while totals.max() > _EVEN * totals.mean() and _exchange(values, owners, totals):
        pass
    return [numpy.flatnonzero(owners == part).tolist() for part in range(parts)]


def pack(lengths: Sequence[int], budget: int, equal: bool = False) -> list[list[int]]:
    """Divide samples among as few rows of at most `budget` positions as they fit, nearly equal ones.

    Args:
        lengths: positions of the samples.
        equal: all rows will be padded to the longest. Up to twice as many rows are taken where fewer would be padding by more
            than `_FULL` says: three or four samples to a row can leave a tenth of it empty, two of them nothing.

    Returns:
        Places in `lengths`, in order, of each row.

    Raises:
        ValueError: a sample alone is longer than a row.
    """
    if max(lengths) > budget:
        raise ValueError(f"a sample of {max(lengths)} positions does not fit a row of {budget}")
    fewest, longest = _fewest_rows(lengths, budget)
    if not equal:
        return fewest
    best, least = fewest, len(fewest) * longest
    for rows in range(len(fewest) + 1, min(2 * len(fewest), len(lengths)) + 1):
        if sum(lengths) >= _FULL * least:
            break
        found = balance(lengths, rows)
        if (computed := rows * _longest(lengths, found)) < least:
            best, least = found, computed
    return best


def _fewest_rows(lengths: Sequence[int], budget: int) -> tuple[list[list[int]], int]:
    """Return the fewest rows that samples fit, and the positions of the longest."""
    rows = math.ceil(sum(lengths) / budget)
    while True:
        found = balance(lengths, rows)
        if (longest := _longest(lengths, found)) <= budget:
            return found, longest
        rows += 1  # as many as there are samples will do


def _longest(lengths: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    return max(sum(lengths[place] for place in row) for row in rows)


def _longest_first(values: NDArray[numpy.float64], parts: int) -> NDArray[numpy.int64]:
    """Part of each sample: the heaviest first, each into the lightest part; the first of equal ones."""
    owners = numpy.empty(len(values), dtype=numpy.int64)
    lightest = [(0.0, part) for part in range(parts)]
    for place in numpy.argsort(-values, kind="stable"):
        total, part = heapq.heappop(lightest)
        owners[place] = part
        heapq.heappush(lightest, (total + float(values[place]), part))
    return owners


def _exchange(values: NDArray[numpy.float64], owners: NDArray[numpy.int64], totals: NDArray[numpy.float64]) -> bool:
    """Exchange a sample of the fullest part for one of another part, or for none, where that makes it lighter than it is.

    `owners` and `totals` are changed; false where no exchange helps.
    """
    fullest = int(totals.argmax())
    own, others = numpy.flatnonzero(owners == fullest), numpy.flatnonzero(owners != fullest)
    taken = numpy.concatenate([values[others], numpy.zeros(len(totals))])  # a zero for each part: nothing in return
    partners = numpy.concatenate([owners[others], numpy.arange(len(totals))])
    moved = values[own][:, None] - taken
    after = numpy.maximum(totals[fullest] - moved, totals[partners] + moved)
    given, place = numpy.unravel_index(after.argmin(), after.shape)
    if after[given, place] >= totals[fullest] * (1 - _ROUNDING):
        return False
    owners[own[given]] = partners[place]
    if place < len(others):
        owners[others[place]] = fullest
    totals[:] = numpy.bincount(owners, values, minlength=len(totals))
    return True
