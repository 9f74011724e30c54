"""From the figures of all cells to what is reported: results.json of a study."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
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
    """A variant: label, recipe, what it changes in words of the command line, seeds, and its figures by name."""

    label: str
    recipe: str | None
    change: str = ""
    seeds: list[int]
    figures: dict[str, Summary]


class GroupResult(Section):
    """A group: its variants after those of other groups that they are changes of, and their differences."""

    variants: dict[str, VariantResult]
    differences: list[Difference]


class FrontPoint(Section):
    """A variant before the two objectives, means over its seeds.

    Args:
        alone: hypervolume of it alone, over seeds.
        lost: what the hypervolume of all means loses without it.
    """

    quality: float
    error: float
    on_front: bool
    alone: Summary
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
    """Those of the matters of taste alone, which every steered variant can be asked for."""
    tastes = tastes_of(schema)

    def of(name: str, key: str) -> Value:
        return lambda cell: getattr(cell.steering[name], key) if name in cell.steering else None

    for name in tastes:
        yield Figure(f"spearman.{name}", f"Spearman, {name}", of(name, "spearman"))
        yield Figure(f"mae.{name}", f"Error, {name}", of(name, "mae"))
    yield Figure("cross_talk", "Cross-talk", lambda cell: _cross_talk(cell, tastes))
    yield Figure("lowest", "Lowest score at a level", lambda cell: _lowest(cell, tastes))
    yield Figure("offer.quality", "Score over levels", lambda cell: cell.offer.quality)
    yield Figure("offer.error", "Steering error", lambda cell: cell.offer.error)


def _cross_talk(cell: CellFigures, tastes: Collection[str]) -> float | None:
    asked = [one for name, one in cell.steering.items() if name in tastes]
    return max((abs(change) for one in asked for change in one.cross_talk.values()), default=None)


def _lowest(cell: CellFigures, tastes: Collection[str]) -> float | None:
    asked = [one for name, one in cell.steering.items() if name in tastes]
    return min((level.score for one in asked for level in one.levels), default=None)


def _costs() -> list[Figure]:
    return [
        Figure("training_seconds", "Training, core s", lambda cell: cell.spent.training_cpu_seconds, 0, compared=False),
        Figure("seconds", "All, core s", lambda cell: cell.spent.cpu_seconds, 0, compared=False),
    ]


def pairs_in(study: Study, group: str) -> list[tuple[str, str]]:
    """Return which variants of a group are compared with which; those that others are compared with, with the ones before.

    The base is only compared with, where the settings say so.
    """
    against = study.settings.against.get(group, ())
    found = []
    for name in (one for one in study.settings.names_in(group) if one != BASE):
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
        front=front_of({name: of_one for name, of_one in cells.items() if not study.settings.is_on_a_curve(name)}),
        curves={group: found for group in study.settings.curves if (found := curves_of(study, group, cells))},
        notes=notes,
    )


def _groups(study: Study, cells: Cells) -> list[str]:
    return [group for group in study.settings.seeds if set(study.settings.names_in(group)) & set(cells)]


def _group(study: Study, group: str, cells: Cells, figures: list[Figure]) -> GroupResult:
    own = study.settings.names_in(group)
    changed = [of for name in own if name in cells and (of := study.settings.variants[name].of)]
    others = [name for name in dict.fromkeys(changed) if name not in own]
    names = [name for name in (*others, *own) if name in cells]
    variants = {name: _variant(study, name, cells[name], figures) for name in names}
    return GroupResult(variants=variants, differences=differences_of(cells, pairs_in(study, group), figures))


def _variant(study: Study, name: str, cells: Mapping[int, CellFigures], figures: list[Figure]) -> VariantResult:
    recipe = study.settings.recipe_of(name)
    found = {one.name: summary for one in figures if (summary := summary_of(cells, one.value))}
    if recipe is None:  # its answers are greedy, the same for all seeds: an interval of no width would say too much
        found = {key: summary.model_copy(update={"low": None, "high": None}) for key, summary in found.items()}
    return VariantResult(
        label=study.settings.variants[name].label or name,
        recipe=recipe,
        change=study.settings.change_of(name),
        seeds=sorted(cells),
        figures=found,
    )


def is_steered(cells: Mapping[int, CellFigures]) -> bool:
    """Whether a variant's models take requests."""
    return any(cell.steering for cell in cells.values())


def front_of(cells: Cells) -> Front | None:
    """Return quality against steering error of all variants, means over seeds; None without the base."""
    points = {name: _offer(of_one) for name, of_one in cells.items()}
    reference = points.get(BASE)
    if reference is None:
        return None
    front, whole = set(pareto_front(list(points.values()))), hypervolume(list(points.values()), reference)

    def point(name: str) -> FrontPoint:
        others = [other for key, other in points.items() if key != name]
        alone = summary_of(
            cells[name], lambda cell: hypervolume([Point(cell.offer.quality, cell.offer.error)], reference)
        )
        assert alone is not None  # every cell has an offer
        return FrontPoint(
            quality=points[name].quality,
            error=points[name].error,
            on_front=points[name] in front,
            alone=alone,
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
    """Return the curves of a group by the variant that is changed, which itself stands at the end that the settings name.

    Of it those seeds count that a change of it has: all points are of the same seeds once all cells are finished.
    """
    places: dict[str, dict[float, str]] = {}
    for name in study.settings.names_in(group):
        variant = study.settings.variants[name]
        if variant.of and variant.share is not None:
            places.setdefault(variant.of, {study.settings.curves[group]: variant.of})[variant.share] = name
    found: dict[str, list[CurvePoint]] = {}
    for of, by_share in places.items():
        seeds = {seed for name in by_share.values() if name != of for seed in cells.get(name, {})}
        for share, name in sorted(by_share.items()):
            paired = {seed: cell for seed, cell in cells.get(name, {}).items() if seed in seeds}
            if summary := summary_of(paired, _measured("", SCORE)):
                found.setdefault(of, []).append(CurvePoint(share=share, variant=name, score=summary))
    return found
