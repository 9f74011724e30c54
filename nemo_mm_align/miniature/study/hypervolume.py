"""Pareto front and hypervolume of two objectives: quality, of which more is better, and steering error, of which less is.

The hypervolume (Zitzler and Thiele 1998) is the area of what is at least as good as the reference point and no better than some
point of the set. In two dimensions it is a staircase: along the front, in order of error, each point adds
(quality - reference quality) x (next point's error - its own), the reference's error standing last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """A model: its quality, and how far its answers are from what was asked."""

    quality: float
    error: float


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one is as good as in both and better in one, by rising error; equal points once."""
    front: list[Point] = []
    for point in sorted(set(points), key=lambda one: (one.error, -one.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Return the area between the front and the reference; points that are not better than it in both add nothing."""
    better = [point for point in points if point.quality > reference.quality and point.error < reference.error]
    front = pareto_front(better)
    ends = [*(point.error for point in front), reference.error][1:]
    return sum(
        (point.quality - reference.quality) * (end - point.error) for point, end in zip(front, ends, strict=True)
    )
