"""Tables of a study's report, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nemo_mm_align.evaluation.markdown import table
from nemo_mm_align.miniature.study.compare import Difference, Figure, Summary
from nemo_mm_align.miniature.study.figures import CellFigures
from nemo_mm_align.miniature.study.outcome import CurvePoint, Front, GroupResult
from nemo_mm_align.miniature.study.settings import Paper, PaperCurve
from nemo_mm_align.reporting.tables import Cell, measured, number

QUALITY = (
    "score",
    "correctness",
    "hallucination",
    "yes_no_accuracy",
    "text_score",
    "length_words",
    "length_controlled",
)
_MORE = ("score_unasked", "text_score_unasked", "score_brief", "cross_talk", "lowest", "offer.quality", "offer.error")


def group_tables(group: GroupResult, figures: Sequence[Figure]) -> Iterator[str]:
    """Yield the tables of a group: quality, steering where a variant takes requests, differences of the score."""
    known = {figure.name: figure for figure in figures}
    yield _summaries(group, [known[name] for name in (*QUALITY, "training_seconds")], list(group.variants))
    steered = [name for name, one in group.variants.items() if "lowest" in one.figures]
    if steered:
        per_taste = [one for one in figures if one.name.startswith(("spearman.", "mae."))]
        yield _summaries(group, [*per_taste, *(known[name] for name in _MORE)], steered)
    if group.differences:
        yield differences_table(group, [one for one in group.differences if one.figure == figures[0].name])


def _summaries(group: GroupResult, figures: Sequence[Figure], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        one = group.variants[name]
        cells = [_summary(one.figures.get(figure.name), figure.digits) for figure in figures]
        rows.append([Cell(one.label), Cell(str(len(one.seeds))), *cells])
    return table(["", "Seeds", *(figure.label for figure in figures)], rows)


def _summary(summary: Summary | None, digits: int) -> Cell:
    return Cell("–") if summary is None else measured(summary.mean, summary.bounds, f".{digits}f")


def differences_table(group: GroupResult, differences: Sequence[Difference]) -> str:
    """Return differences with intervals and p-values; in bold what separates."""
    rows = [
        [
            Cell(group.variants[one.variant].label),
            Cell(one.against),
            Cell(f"{one.mean:+.2f}", _bounds(one), strong=one.separates),
            Cell(_p(one.p_value)),
            Cell(_p(one.p_corrected)),
            Cell(str(one.seeds)),
        ]
        for one in differences
    ]
    return table(["", "against", "difference of the score", "p", "p corrected", "seeds"], rows)


def _bounds(one: Difference) -> str:
    return "" if one.bounds is None else f"[{one.bounds[0]:+.2f}, {one.bounds[1]:+.2f}]"


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def separated(group: GroupResult, figures: Sequence[Figure]) -> Iterator[str]:
    """Yield a sentence per figure on what separates after correction, and within which bounds the others may still differ."""
    labels = {figure.name: figure for figure in figures}
    for name, figure in labels.items():
        family = [one for one in group.differences if one.figure == name and one.p_corrected is not None]
        apart = [one for one in family if one.separates]
        if family:
            said = [f"{one.variant} - {one.against} {one.mean:+.{figure.digits}f}" for one in apart]
            rest = _rest([one for one in family if not one.separates], figure.digits)
            yield f"{figure.label}: {len(apart)} of {len(family)} separate{': ' if said else ''}{', '.join(said)}.{rest}"


def _rest(differences: Sequence[Difference], digits: int) -> str:
    bounds = [one.bounds for one in differences if one.bounds]
    if not bounds:
        return ""
    low, high = min(one[0] for one in bounds), max(one[1] for one in bounds)
    return f" The intervals of the other {len(bounds)} lie within [{low:+.{digits}f}, {high:+.{digits}f}]."


def changes_list(group: GroupResult) -> str:
    """Return what each variant changes, a line each."""
    return "\n".join(f"- {name}: `{one.change}`" for name, one in group.variants.items() if one.change)


def front_table(front: Front) -> str:
    """Return quality against steering error, the best alone first."""
    rows = [
        [
            Cell(name, strong=point.on_front),
            *(Cell(number(value)) for value in (point.quality, point.error)),
            measured(point.alone.mean, point.alone.bounds),
            Cell(number(point.lost)),
        ]
        for name, point in sorted(front.points.items(), key=lambda item: (-item[1].alone.mean, -item[1].quality))
    ]
    return table(["", "Score", "Steering error", "Hypervolume alone", "Lost without it"], rows)


def levels_table(cells: Mapping[str, Mapping[int, CellFigures]]) -> str:
    """Return what was judged and scored at each value asked, means over seeds, of every variant that takes requests."""
    rows = []
    for name, of_one in cells.items():
        for attribute in next(iter(of_one.values())).steering:
            per_level = zip(*(cell.steering[attribute].levels for cell in of_one.values()), strict=True)
            means = [
                [sum(getattr(level, key) for level in levels) / len(levels) for key in ("asked", "judged", "score")]
                for levels in per_level
            ]
            rows.append([Cell(name), Cell(attribute), *(Cell(_listed(column)) for column in zip(*means, strict=True))])
    return table(["", "attribute", "asked", "judged", "score"], rows) if rows else ""


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}".rstrip("0").rstrip(".") for value in values)


def paper_table(paper: Paper, group: GroupResult) -> str:
    """Return changes relative to the base, the paper's beside ours."""
    ours = {"score": "Ours: score", "text_score": "Ours: text"}
    names = [name for name in group.variants if any(name in one.values for one in paper.tables)]
    rows = []
    for name in names:
        theirs = [_relative(one.values.get(name), one.values.get("base")) for one in paper.tables]
        figures, base = group.variants[name].figures, group.variants["base"].figures
        own = [_relative(_mean(figures.get(key)), _mean(base.get(key))) for key in ours]
        rows.append([Cell(group.variants[name].label), *map(Cell, (*theirs, *own))])
    return table(["", *(one.measure for one in paper.tables), *ours.values()], rows)


def _mean(summary: Summary | None) -> float | None:
    return None if summary is None else summary.mean


def _relative(value: float | None, base: float | None) -> str:
    return "–" if value is None or not base else f"{100 * (value / base - 1):+.1f} %"


def paper_curve_table(theirs: PaperCurve, ours: Mapping[str, Sequence[CurvePoint]], base: float, whole: float) -> str:
    """Return a curve of the paper beside ours: change relative to the unchanged variant, and how much of its gain is kept.

    Args:
        theirs: the paper's.
        ours: by variant.
        base: our base's score.
        whole: where on the curve the unchanged variant stands.
    """
    columns = {f"paper, {theirs.measure}": (dict(theirs.points), theirs.base)}
    columns |= {name: ({point.share: point.score.mean for point in points}, base) for name, points in ours.items()}
    shares = sorted({share for points, _ in columns.values() for share in points})
    rows = [
        [Cell(f"{100 * share:g} %"), *(Cell(_kept(points, share, start, whole)) for points, start in columns.values())]
        for share in shares
    ]
    return table(["", *columns], rows)


def _kept(points: Mapping[float, float], share: float, base: float, whole: float) -> str:
    """``-1.2 % (0.81 of the gain)``."""
    if share not in points or whole not in points:
        return "–"
    gain = points[whole] - base
    kept = f" ({(points[share] - base) / gain:.2f} of the gain)" if gain else ""
    return f"{points[share]:.2f}: {_relative(points[share], points[whole])}{kept}"
