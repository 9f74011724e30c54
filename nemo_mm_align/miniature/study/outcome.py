"""From the figures of all cells to what is reported: results.json of a study."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from nemo_mm_align.evaluation.results import BASE, Section
from nemo_mm_align.miniature.study.compare import Cells, Difference, Figure, Summary, differences_of, summary_of
from nemo_mm_align.miniature.study.figures import CellFigures, all_figures
from nemo_mm_align.miniature.study.hypervolume import Point, hypervolume, pareto_front
from nemo_mm_align.miniature.study.measure import SCORE, tastes_of
from nemo_mm_align.miniature.study.study import Cell, Study
from nemo_mm_align.miniature.task import MiniatureTask
from nemo_mm_align.schema.attributes import AttributeSchema

Value = Callable[[CellFigures], float | None]


class VariantResult(Section):
    """A variant: label, recipe, seeds, and its figures by name."""

    label: str
    recipe: str | None
    seeds: list[int]
    figures: dict[str, Summary]


class GroupResult(Section):
    """A group: its variants, and their differences."""

    variants: dict[str, VariantResult]
    differences: list[Difference]


class FrontPoint(Section):
    """A variant before the two objectives; `alone`: hypervolume of it alone, `lost`: what the whole loses without it."""

    quality: float
    error: float
    on_front: bool
    alone: float
    lost: float


class Front(Section):
    """Quality against steering error: the reference point (what the base offers), hypervolume of all, and each variant."""

    reference_quality: float
    reference_error: float
    hypervolume: float
    points: dict[str, FrontPoint]


class CurvePoint(Section):
    """The score at one place of a curve."""

    share: float
    variant: str
    score: Summary


class StudyResults(Section):
    """Everything that a study reports; `curves` by group, then by the variant that is changed."""

    created: str
    cells: int
    expected: int
    commits: list[str]
    groups: dict[str, GroupResult]
    front: Front | None = None
    curves: dict[str, dict[str, list[CurvePoint]]] = {}
    notes: list[str] = []


def collect(study: Study) -> tuple[dict[str, dict[int, CellFigures]], list[str]]:
    """Return the figures that are of the study's settings, by variant and seed, and notes on those that are not."""
    found: dict[str, dict[int, CellFigures]] = {}
    other: list[str] = []
    for path, figures in all_figures(study.out):
        name = figures.variant
        if name in study.settings.variants and figures.settings_hash == study.hash_of(Cell(name, figures.seed)):
            found.setdefault(name, {})[figures.seed] = figures
        else:
            other.append(str(path.relative_to(study.out)))
    notes = [f"{len(other)} files are of other settings and left out, for example {other[0]}."] if other else []
    return {name: found[name] for name in study.settings.variants if name in found}, notes


def figures_for(schema: AttributeSchema) -> list[Figure]:
    """Return what tables show of a cell, in order."""
    measures = [one for one in MiniatureTask(schema).measures if not one.grouped]
    plain = [Figure(one.name, one.label, _measured("", one.name), one.digits) for one in measures]
    length = Figure("length_controlled", "Gain at equal length", lambda cell: cell.length_controlled.get(""))
    requests = [
        Figure(f"{SCORE}_{name}", f"Score, {words}", _measured(name, SCORE))
        for name, words in (("unasked", "nothing asked"), ("brief", "asked to be brief"))
    ]
    text = Figure("text_score_unasked", "Text, nothing asked", _measured("unasked", "text_score"))
    return [*plain, length, *requests, text, *_steering_figures(schema), *_costs()]


def _measured(request: str, name: str) -> Value:
    return lambda cell: cell.measured.get(request, {}).get(name)


def _steering_figures(schema: AttributeSchema) -> Iterator[Figure]:
    def of(name: str, key: str) -> Value:
        return lambda cell: getattr(cell.steering[name], key) if name in cell.steering else None

    for name in tastes_of(schema):
        yield Figure(f"spearman.{name}", f"Spearman, {name}", of(name, "spearman"))
        yield Figure(f"mae.{name}", f"Error, {name}", of(name, "mae"))
    yield Figure("cross_talk", "Cross-talk", _cross_talk)
    yield Figure("lowest", "Lowest score at a level", _lowest)
    yield Figure("offer.quality", "Score over levels", lambda cell: cell.offer.quality)
    yield Figure("offer.error", "Steering error", lambda cell: cell.offer.error)


def _cross_talk(cell: CellFigures) -> float | None:
    changes = [abs(change) for one in cell.steering.values() for change in one.cross_talk.values()]
    return max(changes) if changes else None


def _lowest(cell: CellFigures) -> float | None:
    scores = [level.score for one in cell.steering.values() for level in one.levels]
    return min(scores) if scores else None


def _costs() -> list[Figure]:
    return [
        Figure("training_seconds", "Training, s", lambda cell: cell.spent.training_cpu_seconds, 0, compared=False),
        Figure("seconds", "All, s", lambda cell: cell.spent.cpu_seconds, 0, compared=False),
    ]


def pairs_in(study: Study, group: str) -> list[tuple[str, str]]:
    """Return which variants of a group are compared with which; those that others are compared with, with the ones before."""
    against = study.settings.against.get(group, ())
    found = []
    for name in study.settings.names_in(group):
        of = study.settings.variants[name].of
        others = against[: against.index(name)] if name in against else against
        found += [(name, other) for other in dict.fromkeys((*others, *((of,) if of else ()))) if other != name]
    return found


def results_of(study: Study) -> StudyResults:
    """Return everything that is reported."""
    cells, notes = collect(study)
    schema = study.run.settings.attribute_schema
    figures = figures_for(schema)
    commits = sorted({cell.commit for of_one in cells.values() for cell in of_one.values()})
    expected = sum(len(study.settings.seeds_of(name)) for name in study.settings.variants)
    if len(commits) > 1:
        notes.append(f"The cells are of {len(commits)} commits: {', '.join(commits)}.")
    return StudyResults(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cells=sum(map(len, cells.values())),
        expected=expected,
        commits=commits,
        groups={group: _group(study, group, cells, figures) for group in _groups(study, cells)},
        front=front_of(cells),
        curves={group: found for group in study.settings.curves if (found := curves_of(study, group, cells))},
        notes=notes,
    )


def _groups(study: Study, cells: Cells) -> list[str]:
    return [group for group in study.settings.seeds if set(study.settings.names_in(group)) & set(cells)]


def _group(study: Study, group: str, cells: Cells, figures: list[Figure]) -> GroupResult:
    variants = {}
    for name in (name for name in study.settings.names_in(group) if name in cells):
        found = {one.name: summary for one in figures if (summary := summary_of(cells[name], one.value))}
        variants[name] = VariantResult(
            label=study.settings.variants[name].label or name,
            recipe=study.settings.recipe_of(name),
            seeds=sorted(cells[name]),
            figures=found,
        )
    return GroupResult(variants=variants, differences=differences_of(cells, pairs_in(study, group), figures))


def front_of(cells: Cells) -> Front | None:
    """Return quality against steering error of all variants, means over seeds; None without the base."""
    points = {name: _offer(of_one) for name, of_one in cells.items()}
    reference = points.get(BASE)
    if reference is None:
        return None
    front, whole = set(pareto_front(list(points.values()))), hypervolume(list(points.values()), reference)

    def point(name: str) -> FrontPoint:
        others = [other for key, other in points.items() if key != name]
        return FrontPoint(
            quality=points[name].quality,
            error=points[name].error,
            on_front=points[name] in front,
            alone=hypervolume([points[name]], reference),
            lost=whole - hypervolume(others, reference),
        )

    return Front(
        reference_quality=reference.quality,
        reference_error=reference.error,
        hypervolume=whole,
        points={name: point(name) for name in points},
    )


def _offer(cells: Mapping[int, CellFigures]) -> Point:
    offers = [cell.offer for cell in cells.values()]
    return Point(sum(one.quality for one in offers) / len(offers), sum(one.error for one in offers) / len(offers))


def curves_of(study: Study, group: str, cells: Cells) -> dict[str, list[CurvePoint]]:
    """Return the curves of a group by the variant that is changed, which itself stands at the end that the settings name."""
    places: dict[str, dict[float, str]] = {}
    for name in study.settings.names_in(group):
        variant = study.settings.variants[name]
        if variant.of and variant.share is not None:
            places.setdefault(variant.of, {study.settings.curves[group]: variant.of})[variant.share] = name
    found: dict[str, list[CurvePoint]] = {}
    for of, by_share in places.items():
        for share, name in sorted(by_share.items()):
            if summary := summary_of(cells.get(name, {}), _measured("", SCORE)):
                found.setdefault(of, []).append(CurvePoint(share=share, variant=name, score=summary))
    return found
