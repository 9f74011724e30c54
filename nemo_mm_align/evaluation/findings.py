"""What failures, tests and falls come to in words: computed from the results, and no more than the intervals say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.measures import FAILED_SHARE, Measurement, measure_of
from nemo_mm_align.evaluation.permutation import comparisons
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.wording import label_of, listing
from nemo_mm_align.reporting.tables import bracket


def tests_basis(results: Results) -> str:
    """How p-values came about, and what they were corrected for; nothing where there are none."""
    counts = {one.comparisons for method in results.methods.values() for one in method.measurements.values()} - {None}
    if not counts or results.resampling is None:
        return ""
    first = {
        one.measurements[results.primary.name].comparisons
        for one in results.methods.values()
        if results.primary.name in one.measurements
    }
    number = next((count for count in first if count), None)
    said = f" {results.primary.label} is {comparisons(number)}." if number else ""
    return (
        "p: how often chance alone would part two methods as far (a mean: signs of the groups' differences flipped, "
        f"{results.resampling.permutations:,} times or, of few, all; other figures: from the resamples). Beside it the same, "
        f"corrected for the number of comparisons of that measure (Holm).{said}"
    )


def length_basis(results: Results) -> str:
    """What the difference at equal length is; nothing where none was computed."""
    found = [one.measurements.get(results.primary.name) for one in results.methods.values()]
    if all(one is None or one.length_controlled is None for one in found):
        return ""
    return "At equal length: what a regression on the difference in words leaves of the difference to the base."


def share_of(share: float) -> str:
    """``1.2 %``."""
    return f"{100 * share:.2g} %"


def failures(results: Results) -> list[str]:
    """Of which figures answers are missing, since nobody could score them."""
    said = []
    for name, one in results.methods.items():
        alike: dict[tuple[int, int], list[str]] = {}
        for figure, found in one.measurements.items():
            if found.failed:
                alike.setdefault((found.failed, found.n), []).append(figure)
        for (failed, n), figures in alike.items():
            said.append(_failed(results, name, figures, failed, n, one.measurements[figures[0]]))
    return said


def _failed(results: Results, name: str, figures: list[str], failed: int, n: int, found: Measurement) -> str:
    of = f"{failed} of {failed + n} answers ({share_of(found.failed_share)}) could not be scored"
    everywhere = set(figures) == set(results.methods[name].measurements)
    where = "" if everywhere else f" in {listing(_shortened([figure_label(results, figure) for figure in figures]))}"
    if found.unreliable:
        end = f"that is more than {share_of(FAILED_SHARE)}, and not compared."
    else:
        end = "they are missing, and differences are those of prompts that both have."
    return f"{label_of(name)}: {of}{where}; {end}"


def _shortened(labels: list[str]) -> list[str]:
    return labels if len(labels) <= 4 else [*labels[:3], f"{len(labels) - 3} more figures"]


def figure_label(results: Results, figure: str) -> str:
    """Name of a figure as a reader sees it; of a part of a grouped one with the part."""
    measure = measure_of(figure, results.measures)
    label, part = measure.label if measure else figure, figure.partition(".")[2]
    return f"{part} ({label})" if part else label


SIGNIFICANT = 0.05
"""A fall is called a regression where its p-value, corrected, is below."""

Fall = tuple[str, str, Measurement]
"""A method and a figure by their names, and the figure's measurement."""


def regressions(results: Results, task: str = "") -> list[str]:
    """Say which figures are worse than the base's: corrected p below 0.05, or, where nothing was tested, by their interval."""
    return [_regression(results, task, fall) for fall in _falls(results) if _is_certain(fall[2])]


def further_falls(results: Results, task: str = "") -> list[str]:
    """Name the figures worse than the base's by more than their interval that are no regressions, by method."""
    named: dict[str, list[str]] = {}
    for name, figure, found in _falls(results):
        if not _is_certain(found):
            named.setdefault(name, []).append(figure_label(results, figure))
    return [f"{_who(label_of(name), task)}: {listing(_shortened(labels))}" for name, labels in named.items()]


def further_note(falls: Sequence[str], said: Sequence[str] = ()) -> str:
    """Sum up `further_falls` in one sentence, behind the regressions that were `said`; nothing where there are none."""
    if not falls:
        return ""
    return (
        f"{'Further' if said else 'Some'} figures are worse than the base's by more than their own interval; so many "
        f"comparisons show some by chance: {'; '.join(falls)}."
    )


def _falls(results: Results) -> Iterator[Fall]:
    for name, one in results.methods.items():
        for figure, found in one.measurements.items():
            measure, interval = measure_of(figure, results.measures), found.minus_base_interval
            if measure is None or measure.better is None or found.minus_base is None or interval is None:
                continue
            sign = 1 if measure.better == "higher" else -1
            if interval.excludes_zero and sign * found.minus_base < 0:
                yield name, figure, found


def _is_certain(found: Measurement) -> bool:
    p_value = found.p_value if found.p_corrected is None else found.p_corrected
    return p_value is None or p_value < SIGNIFICANT


def _who(method: str, task: str) -> str:
    return f"{method}, {task}" if task else method


def _regression(results: Results, task: str, fall: Fall) -> str:
    name, figure, found = fall
    measure = measure_of(figure, results.measures)
    assert measure is not None and found.minus_base is not None
    verb = "fell" if found.minus_base < 0 else "rose"
    bounds = bracket(bounds_of(found.minus_base_interval), f"+.{measure.digits}f")
    test = f"; {p_line(found)}" if found.p_value is not None else ""
    by = f"{abs(found.minus_base):.{measure.digits}f} {bounds}"
    return f"{_who(label_of(name), task)}: {figure_label(results, figure)} {verb} by {by} against the base{test}."


def p_text(p_value: float) -> str:
    """``0.012``; ``< 0.001``."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def p_line(found: Measurement) -> str:
    """A p-value, and beside it the one corrected for the comparisons."""
    if found.p_value is None:
        return ""
    raw = p_text(found.p_value)
    said = f"p {raw}" if raw.startswith("<") else f"p = {raw}"
    if found.p_corrected is None or not found.comparisons or found.comparisons < 2:
        return said
    return f"{said}, {p_text(found.p_corrected)} {comparisons(found.comparisons)}"
