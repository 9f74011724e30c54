"""Timing of alternatives side by side: a shared machine's mood then falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Action = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one alternative, one per round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Middle value, seconds."""
        return statistics.median(self.seconds)


def alternate(actions: Mapping[str, Action], rounds: int, warmup: int = 1) -> dict[str, Timing]:
    """Run every action once per round, in turn; the first `warmup` rounds do not count."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(warmup + rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if number >= warmup:
                taken[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def speedup(peer: Timing, ours: Timing) -> float:
    """How many times faster `ours` is: the median over rounds of the ratio within a round."""
    return statistics.median(theirs / own for theirs, own in zip(peer.seconds, ours.seconds, strict=True))
