"""Figures over seeds, and what separates: paired by seed, Student's intervals and p-values, corrected for their number.

With five seeds all sign flips of the differences cannot fall below p = 2/32, so that p-values are Student's (two-sided, paired by
seed), as the intervals are; Holm's correction is over the comparisons of one figure in one group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from nemo_mm_align.evaluation.intervals import t_interval
from nemo_mm_align.evaluation.permutation import holm
from nemo_mm_align.evaluation.results import Section
from nemo_mm_align.miniature.study.figures import CellFigures

Cells = Mapping[str, Mapping[int, CellFigures]]
"""Figures by variant and seed."""

ALPHA = 0.05
_SAME = 1e-9
"""Of a mean: what scatters less differs by the rounding of its subtraction alone."""


@dataclass(frozen=True)
class Figure:
    """One number of a cell.

    Args:
        name, label: in results.json and in tables.
        value: of a cell; None where it has none.
        digits: that tables show.
        compared: whether differences of it are told.
    """

    name: str
    label: str
    value: Callable[[CellFigures], float | None]
    digits: int = 2
    compared: bool = True


class OverSeeds(Section):
    """A mean over seeds and its 95 % interval, None for one seed."""

    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class Summary(OverSeeds):
    """A figure over seeds, and each seed's."""

    per_seed: dict[int, float]


class Difference(OverSeeds):
    """A figure of one variant less that of another, paired by the seeds that both have.

    Args:
        p_value: of Student's test that it is 0; None for one seed.
        p_corrected: by Holm, for `comparisons`, those of the same figure in the same group.
    """

    figure: str
    variant: str
    against: str
    seeds: int
    p_value: float | None = None
    p_corrected: float | None = None
    comparisons: int | None = None

    @property
    def separates(self) -> bool:
        """Whether it is told from none after correction."""
        return self.p_corrected is not None and self.p_corrected < ALPHA


def summary_of(cells: Mapping[int, CellFigures], value: Callable[[CellFigures], float | None]) -> Summary | None:
    """Return a figure over seeds; None where no cell has it."""
    per_seed = {seed: found for seed, cell in sorted(cells.items()) if (found := value(cell)) is not None}
    if not per_seed:
        return None
    low, high = t_interval(list(per_seed.values())) or (None, None)
    return Summary(mean=float(np.mean(list(per_seed.values()))), low=low, high=high, per_seed=per_seed)


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of Student's paired test; None for fewer than two differences.

    t = mean / (s / sqrt(n)) with n - 1 degrees of freedom. Where all agree it is 1 for no difference, and None for another one:
    a figure that counts prompts has steps, and a few seeds on the same step say nothing of how far they scatter.
    """
    if len(differences) < 2:
        return None
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if deviation <= _SAME * abs(mean):
        return 1.0 if mean == 0 else None
    return float(2 * stdtr(len(differences) - 1, -abs(mean) / (deviation / math.sqrt(len(differences)))))


def differences_of(cells: Cells, pairs: Iterable[tuple[str, str]], figures: Sequence[Figure]) -> list[Difference]:
    """Return the differences of pairs of variants, those of each figure corrected for their number."""
    pairs, found = list(pairs), list[Difference]()
    for figure in (one for one in figures if one.compared):
        family = [one for pair in pairs if (one := _difference(cells, pair, figure))]
        found += _corrected(family)
    return found


def _difference(cells: Cells, pair: tuple[str, str], figure: Figure) -> Difference | None:
    own, other = (cells.get(name, {}) for name in pair)
    values = [(figure.value(own[seed]), figure.value(other[seed])) for seed in sorted(own.keys() & other.keys())]
    paired = [one - two for one, two in values if one is not None and two is not None]
    if not paired:
        return None
    low, high = t_interval(paired) or (None, None)
    return Difference(
        figure=figure.name,
        variant=pair[0],
        against=pair[1],
        mean=float(np.mean(paired)),
        low=low,
        high=high,
        seeds=len(paired),
        p_value=paired_p_value(paired),
    )


def _corrected(family: Sequence[Difference]) -> list[Difference]:
    known = {place: one.p_value for place, one in enumerate(family) if one.p_value is not None}
    corrected = holm(known)
    return [
        one.model_copy(update={"p_corrected": corrected[place], "comparisons": len(known)})
        if place in corrected
        else one
        for place, one in enumerate(family)
    ]
