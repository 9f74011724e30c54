"""What the report says in words. Every sentence is computed from the results, and says when they separate nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.measures import FAILED_SHARE, Measurement, measure_of
from nemo_mm_align.evaluation.permutation import comparisons
from nemo_mm_align.evaluation.results import BASE, VARIANTS, Results, variant_of
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.reporting.tables import bracket


def label_of(name: str) -> str:
    """Name of a method as a reader sees it."""
    if name == BASE:
        return "Base"
    method, variant = variant_of(name)
    recipe = all_recipes().get(method)
    label = method.replace("_", " ") if recipe is None else recipe.label
    return f"{label}, {VARIANTS[variant]}" if variant else label


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def headline(results: Results) -> list[str]:
    """One sentence about the methods, one about steering, as far as they were run."""
    return [sentence for sentence in (_best_method(results), _steering(results)) if sentence]


def _best_method(results: Results) -> str:
    first = results.primary
    found = {
        name: one.measurements[first.name] for name, one in results.methods.items() if first.name in one.measurements
    }
    trained = {name: one for name, one in found.items() if name != BASE}
    if not trained or first.better is None:
        return ""
    sign, digits = 1 if first.better == "higher" else -1, first.digits
    best = max(trained, key=lambda name: sign * trained[name].value)
    what = _inside(first.label)
    text = f"{label_of(best)} comes first: {what} {trained[best].value:.{digits}f}"
    if BASE not in found:
        return text + "."
    difference, interval = trained[best].minus_base or 0.0, trained[best].minus_base_interval
    if trained[best].minus_base is None and any(one.unreliable for one in (trained[best], found[BASE])):
        return f"{text}; too many answers failed to compare it with the base."
    comparison = f"{difference:+.{digits}f} {bracket(bounds_of(interval), f'+.{digits}f')}".strip()
    if sign * difference <= 0:
        nearest = f"the nearest is {label_of(best)}, {comparison}"
        return f"No method is better than the base ({what} {found[BASE].value:.{digits}f}); {nearest}."
    separated = "" if interval and interval.excludes_zero else ", which does not separate them"
    return f"{text}, against {found[BASE].value:.{digits}f} of the base ({comparison}{separated})."


def _inside(label: str) -> str:
    """A label in the middle of a sentence; abbreviations stay as they are."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


def _steering(results: Results) -> str:
    known = {name: curve.spearman for name, curve in results.steering.items() if curve.spearman is not None}
    if not known:
        return ""
    follows = [f"{name} ({value:.2f})" for name, value in known.items() if value >= 0.3]
    deaf = [f"{name} ({value:.2f})" for name, value in known.items() if value < 0.3]
    parts = []
    if follows:
        parts.append(f"asked-for {listing(follows)} {'shows' if len(follows) == 1 else 'show'} in the answers")
    if deaf:
        parts.append(f"{listing(deaf)} hardly or not at all")
    text = "; ".join(parts)
    return f"Steering, rank correlation of asked and judged: {text}."


def basis(results: Results) -> str:
    """What the numbers rest on: prompts, seeds, date."""
    parts = [f"{count} {kind}" for kind, count in results.prompts.items()]
    seeds = f"{len(results.seeds)} seeds" if len(results.seeds) > 1 else "one seed"
    return (
        f"Held out from training: {listing(parts)}; {seeds} ({', '.join(map(str, results.seeds))}); {_date(results)}."
    )


def _date(results: Results) -> str:
    return results.created[:16].replace("T", " ")


def interval_basis(results: Results) -> str:
    """What the intervals of the table vary."""
    if len(results.seeds) > 1:
        return f"over {len(results.seeds)} seeds, each a run of the whole loop"
    over = "over the held-out prompts of one run"
    if found := results.resampling:
        drawn = f"{found.prompts:,} prompts"
        if found.groups != found.prompts:
            drawn = f"{found.groups:,} groups of prompts ({drawn})"
        over += f", {found.resamples:,} resamples of {drawn}"
    return f"{over}; another seed can differ by more"


def tests_basis(results: Results) -> str:
    """How p-values came about, and what they were corrected for; nothing where there are none."""
    counts = {one.comparisons for method in results.methods.values() for one in method.measurements.values()} - {None}
    if not counts or results.resampling is None:
        return ""
    first = {one.measurements[results.primary.name].comparisons for one in results.methods.values() if results.primary.name in one.measurements}
    number = next((count for count in first if count), None)
    said = f" {results.primary.label} is {comparisons(number)}." if number else ""
    return (
        "p: how often chance alone would part two methods as far (a mean: signs of the groups' differences flipped, "
        f"{results.resampling.permutations:,} times or, of few, all; other figures: from the resamples). Beside it the same, "
        f"corrected for the number of comparisons of that measure (Holm).{said}"
    )


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


def regressions(results: Results, task: str = "") -> list[str]:
    """Say which figures are worse than the base's by more than their interval."""
    said = []
    for name, one in results.methods.items():
        for figure, found in one.measurements.items():
            measure, interval = measure_of(figure, results.measures), found.minus_base_interval
            if measure is None or measure.better is None or found.minus_base is None or interval is None:
                continue
            sign = 1 if measure.better == "higher" else -1
            if interval.excludes_zero and sign * found.minus_base < 0:
                said.append(_regression(label_of(name), task, figure_label(results, figure), found, measure.digits))
    return said


def _regression(method: str, task: str, label: str, found: Measurement, digits: int) -> str:
    assert found.minus_base is not None
    verb = "fell" if found.minus_base < 0 else "rose"
    bounds = bracket(bounds_of(found.minus_base_interval), f"+.{digits}f")
    test = f"; {p_line(found)}" if found.p_value is not None else ""
    return f"{method}{f', {task}' if task else ''}: {label} {verb} by {abs(found.minus_base):.{digits}f} {bounds} against the base{test}."


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
