"""What resampling adds to a single run's measurements: intervals, paired differences to the base, p-values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.length_control import length_controlled
from nemo_mm_align.evaluation.measures import Measurement
from nemo_mm_align.evaluation.metrics import comparable
from nemo_mm_align.evaluation.permutation import holm
from nemo_mm_align.evaluation.resampled import Estimate, Pair, run_figures
from nemo_mm_align.evaluation.results import BASE, MethodResult, Resampling
from nemo_mm_align.evaluation.statistics import Statistic


def add_resampled(
    results: Mapping[str, MethodResult],
    methods: Mapping[str, Sequence[ScoredAnswer]],
    statistics: Sequence[Statistic] = (),
    only: Collection[str] | None = None,
    judged: str = "",
) -> Resampling:
    """Replace intervals by those of a bootstrap over groups of prompts; add differences to the base and p-values.

    Args:
        results: changed in place.
        methods: the run's answers.
        statistics: of the task.
        only: figures that it is done for; by default all.
        judged: a figure that a judge gave, whose differences are told at equal length as well.
    """
    pairs = [(name, BASE) for name in results if name != BASE and BASE in results]

    def may(pair: Pair, name: str) -> bool:
        one, base = (results[method].measurements.get(name) for method in pair)
        return comparable(one, base) and (only is None or name in only)

    found = run_figures(methods, statistics, pairs, may)
    for (method, name), estimate in found.values.items():
        if name in results[method].measurements and (only is None or name in only):
            results[method].measurements[name].interval = estimate.interval
    for ((method, _), name), difference in found.differences.items():
        _add_difference(results[method].measurements[name], difference)
    for method, base in pairs if judged else ():
        if may((method, base), judged):
            _add_length_control(results[method].measurements[judged], methods[method], methods[base], judged)
    correct(results)
    return found.resampling


def _add_length_control(
    one: Measurement, ours: Sequence[ScoredAnswer], theirs: Sequence[ScoredAnswer], name: str
) -> None:
    if found := length_controlled(ours, theirs, name):
        one.length_controlled, one.length_controlled_interval = found.difference, found.interval


def _add_difference(one: Measurement, found: Estimate) -> None:
    one.minus_base, one.minus_base_interval, one.p_value = found.value, found.interval, found.p_value


def correct(results: Mapping[str, MethodResult]) -> None:
    """Correct p-values for how many there are of the same measure: over methods, and over the parts of a grouped one."""
    families: dict[str, dict[tuple[str, str], float]] = {}
    for method, result in results.items():
        for name, one in result.measurements.items():
            if one.p_value is not None:
                families.setdefault(name.partition(".")[0], {})[method, name] = one.p_value
    for family in families.values():
        for (method, name), p_value in holm(family).items():
            one = results[method].measurements[name]
            one.p_corrected, one.comparisons = p_value, len(family)
