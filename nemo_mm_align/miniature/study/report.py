"""study.md, results.json, cells.csv and plots of a study, of whatever cells are finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.evaluation.markdown import escape, join
from nemo_mm_align.evaluation.results import BASE
from nemo_mm_align.miniature.study import plots, tables
from nemo_mm_align.miniature.study.compare import Cells
from nemo_mm_align.miniature.study.measure import SCORE, tastes_of
from nemo_mm_align.miniature.study.outcome import Front, StudyResults, collect, figures_for, is_steered, results_of
from nemo_mm_align.miniature.study.sheet import cells_sheet
from nemo_mm_align.miniature.study.study import Study

RESULTS, SHEET, REPORT, PLOTS = "results.json", "cells.csv", "study.md", "plots"


def write_report(study: Study) -> Path:
    """Write all of it into the study's folder; return the path of study.md."""
    results, cells = results_of(study), collect(study)[0]
    write_text(study.out / RESULTS, results.model_dump_json(indent=1) + "\n")
    write_text(study.out / SHEET, cells_sheet(cells, figures_for(study.run.settings.attribute_schema)))
    _write_plots(study, results, cells)
    path = study.out / REPORT
    write_text(path, join(_parts(study, results, cells)))
    return path


def _parts(study: Study, results: StudyResults, cells: Cells) -> Iterator[str]:
    figures = figures_for(study.run.settings.attribute_schema)
    yield f"# Study: {results.cells} of {results.expected} cells"
    yield escape(_basis(study, results, cells))
    yield from (f"> {escape(note)}" for note in results.notes)
    for name, group in results.groups.items():
        yield f"## {name}"
        if name in study.settings.about:
            yield escape(study.settings.about[name])
        if changes := tables.changes_list(group):
            yield changes
        yield from tables.group_tables(group, figures)
        yield from _separated(list(tables.separated(group, figures)))
        yield from _curve(study, results, name)
    steered = {name: of_one for name, of_one in _off_curves(study, cells).items() if is_steered(of_one)}
    if steered:
        yield "## Quality at each level"
        yield f"![]({PLOTS}/levels.svg)"
        yield tables.levels_table(steered)
    if results.front:
        yield from _front(results.front)
    yield from _paper(study, results)


def _basis(study: Study, results: StudyResults, cells: Cells) -> str:
    settings, world = study.settings, study.run.settings
    asked = world.world.heldout if world.evaluate_on == "heldout" else world.world.dev
    prompts = (
        f"prompts of the {world.evaluate_on} split: those about {asked.easyvqa} images of easy-VQA and {asked.charts} charts, "
        f"{asked.text} text instructions"
    )
    before = [cell.text_before_visual_tuning for of_one in cells.values() for cell in of_one.values()]
    known = [value for value in before if value is not None]
    text = f" Before it saw images the base followed {known[0]:.2f} of them." if known else ""
    hours = sum(cell.spent.cpu_seconds for of_one in cells.values() for cell in of_one.values()) / 3600
    machines = sorted({cell.machine for of_one in cells.values() for cell in of_one.values()})
    return (
        f"Means over seeds (the first is {settings.first_seed}); in brackets Student's 95 % intervals over them. Measured on "
        f"{prompts}.{text} Differences are paired by seed; p-values are Student's, corrected (Holm) over the comparisons of a "
        f"figure in a group; in bold what stays below 0.05. Commit {', '.join(results.commits)}; {'; '.join(machines)}; "
        f"{hours:.1f} core hours in the cells, {results.created}."
    )


def _separated(sentences: Sequence[str]) -> Iterator[str]:
    if sentences:
        yield "What separates after correction:"
        yield "\n".join(f"- {escape(sentence)}" for sentence in sentences)


def _off_curves(study: Study, cells: Cells) -> Cells:
    return {name: of_one for name, of_one in cells.items() if not study.settings.is_on_a_curve(name)}


def _curve(study: Study, results: StudyResults, group: str) -> Iterator[str]:
    curves = results.curves.get(group)
    if not curves:
        return
    yield f"![]({PLOTS}/{group}.svg)"
    paper, base = study.settings.paper, _base_score(results)
    if paper and group in paper.curves and base is not None:
        yield escape(
            f"The paper's curve of {paper.curves[group].of} beside ours: figure, change relative to the unchanged variant, and "
            "how much of its gain over the base is kept. All points of a curve are of the same seeds."
        )
        yield tables.paper_curve_table(paper.curves[group], curves, base, study.settings.curves[group])


def _front(front: Front) -> Iterator[str]:
    yield "## Quality against steering"
    yield escape(
        "Score and mean error |judged - asked| over all values of the matters of taste, asked one at a time; a model that takes "
        f"no requests gives its one answer to each. Hypervolume: points of score x steps of error beyond the reference point, "
        f"which is what the base offers: score {front.reference_quality:.2f}, error {front.reference_error:.2f}. All together: "
        f"{front.hypervolume:.2f}. Variants of less data or of wrong labels are left out. In bold: on the front of the means, "
        "which noise decides where points are close; brackets are intervals over seeds. A model that takes no requests has next "
        "to no hypervolume, however good its answers are."
    )
    yield f"![]({PLOTS}/front.svg)"
    yield tables.front_table(front)


def _paper(study: Study, results: StudyResults) -> Iterator[str]:
    paper = study.settings.paper
    group = next((one for one in results.groups.values() if BASE in one.variants), None)
    if paper is None or group is None:
        return
    yield "## Beside the paper"
    yield escape(
        "Changes relative to the model that training started from. The measures are not the same, nor are their scales: signs "
        f"and ranks can be compared, sizes cannot. The paper: {paper.source}."
    )
    yield tables.paper_table(paper, group)


def _base_score(results: StudyResults) -> float | None:
    for group in results.groups.values():
        if BASE in group.variants:
            return group.variants[BASE].figures[SCORE].mean
    return None


def _write_plots(study: Study, results: StudyResults, cells: Cells) -> None:
    folder, base = study.out / PLOTS, _base_score(results)
    colours = plots.colours_of({name: study.settings.recipe_of(name) for name in cells})
    xlabels = {group: f"{group}, %" for group in results.curves}
    for group, curves in results.curves.items():
        plots.plot_curves(folder / f"{group}.svg", curves, base, xlabels[group], colours)
    per_group = ([name for name in one.variants if is_steered(cells[name])] for one in results.groups.values())
    if first := next(filter(None, per_group), None):
        steered = {name: cells[name] for name in first}
        tastes = tastes_of(study.run.settings.attribute_schema)
        plots.plot_levels(folder / "levels.svg", steered, base, colours, [*tastes])
    if results.front:
        named = next((list(one.variants) for one in results.groups.values() if BASE in one.variants), [])
        plots.plot_front(folder / "front.svg", results.front, colours, named)
