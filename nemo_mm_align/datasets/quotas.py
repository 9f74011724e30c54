"""How many times each of many things is drawn, where their total is given and none may be drawn too often."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def apportion(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Divide `total` in proportion to `weights`, none above its cap; what a cap holds back goes to the others.

    Fractions are settled by largest remainder, the first of equals first.

    Returns:
        Whole numbers that add up to `total`, or to the sum of the caps where that is less.
    """
    shares = [0.0] * len(weights)
    free = [place for place, weight in enumerate(weights) if weight > 0 and caps[place] > 0]
    left = float(min(total, sum(caps[place] for place in free)))
    while free and left > 0:
        unit = left / sum(weights[place] for place in free)
        full = [place for place in free if unit * weights[place] >= caps[place]]
        for place in full or free:
            shares[place] = float(caps[place]) if full else unit * weights[place]
        left -= sum(shares[place] for place in full) if full else left
        free = [place for place in free if place not in full]
    counts = [math.floor(share + 1e-9) for share in shares]
    missing = round(sum(shares)) - sum(counts)
    by_remainder = sorted(range(len(shares)), key=lambda place: (counts[place] - shares[place], place))
    for place in by_remainder[:missing]:
        counts[place] += 1
    return counts


def draw_evenly(source: random.Random, things: Sequence[Thing], count: int) -> list[Thing]:
    """Draw `count` of `things`, each as often as any other or once more, in the order of `things`."""
    if not things:
        return []
    every, more = divmod(count, len(things))
    again = set(source.sample(range(len(things)), more))
    return [thing for place, thing in enumerate(things) for _ in range(every + (place in again))]
