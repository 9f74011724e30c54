"""95 % confidence intervals: over seeds where there are several runs, over prompts where there is one.

numpy and scipy are imported where they are used: commands that only show an interval's settings do without them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

CONFIDENCE = 0.95


class Interval(BaseModel):
    """A 95 % interval, and what it was taken over: training runs (``seeds``) or one run's questions (``prompts``)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    over: Literal["seeds", "prompts"]

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is separated from none."""
        return self.low > 0 or self.high < 0


def bounds_of(interval: Interval | None) -> tuple[float, float] | None:
    """Return the ends of an interval."""
    return (interval.low, interval.high) if interval else None


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    import numpy as np
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * float(np.std(values, ddof=1))
    half /= math.sqrt(len(values))
    return mean - half, mean + half


def share_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Wilson's interval of a share of zeros and ones: unlike Student's it has a width where all values agree."""
    if len(values) < 2:
        return None
    from scipy import stats  # half a second, which every process that generates answers would pay

    result = stats.binomtest(int(sum(values)), len(values)).proportion_ci(CONFIDENCE, method="wilson")
    return float(result.low), float(result.high)


def interval_of(per_seed: Sequence[Sequence[float]], share: bool = False) -> Interval | None:
    """Interval of a mean, given each seed's values per prompt; `share` says that they are zeros and ones.

    Several seeds: Student's interval over the seeds' means. One seed: over its prompts, Wilson's for shares.
    """
    import numpy as np

    if len(per_seed) > 1:
        bounds = t_interval([float(np.mean(values)) for values in per_seed])
        return Interval(low=bounds[0], high=bounds[1], over="seeds") if bounds else None
    bounds = share_interval(per_seed[0]) if share else t_interval(per_seed[0])
    return Interval(low=bounds[0], high=bounds[1], over="prompts") if bounds else None
