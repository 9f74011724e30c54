"""Several tasks at a glance: methods by tasks, and what fell where."""

from __future__ import annotations

from collections.abc import Mapping

from nemo_mm_align.evaluation import findings, plots, tables, wording
from nemo_mm_align.evaluation.measures import Measurement
from nemo_mm_align.evaluation.permutation import comparisons, holm
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.reporting.tables import Cell

Tasks = Mapping[str, Results]


def methods_of(tasks: Tasks) -> list[str]:
    """Return all methods, in the order in which tasks name them."""
    return list(dict.fromkeys(name for results in tasks.values() for name in results.methods))


def overview_heads(tasks: Tasks) -> list[str]:
    """Return the heads of the columns: the methods, or each task with its first measure, whichever are fewer."""
    if _tasks_are_rows(tasks):
        return ["Task", *map(wording.label_of, methods_of(tasks))]
    return ["Method", *(_task_label(name, results) for name, results in tasks.items())]


def overview_rows(tasks: Tasks) -> list[list[Cell]]:
    """Return a row per task or per method, whichever are more: first measures, with their differences to the base."""
    names, found = methods_of(tasks), overview_figures(tasks)

    def cell(method: str, task: str) -> Cell:
        return tables.compared_cell(found.get((method, task)), tasks[task].primary.digits)

    if _tasks_are_rows(tasks):
        return [
            [Cell(_task_label(task, results), wraps=True), *(cell(method, task) for method in names)]
            for task, results in tasks.items()
        ]
    return [
        [Cell(wording.label_of(method), colour=plots.colour_of(method, names)), *(cell(method, task) for task in tasks)]
        for method in names
    ]


def _tasks_are_rows(tasks: Tasks) -> bool:
    """A page is longer than it is wide."""
    return len(tasks) > len(methods_of(tasks))


def _task_label(name: str, results: Results) -> str:
    return f"{name}: {results.primary.label}"


def overview_figures(tasks: Tasks) -> dict[tuple[str, str], Measurement]:
    """Return each task's first measure by (method, task); p-values are corrected for all that stand in the table."""
    found = {
        (method, task): one.measurements[results.primary.name]
        for task, results in tasks.items()
        for method, one in results.methods.items()
        if results.primary.name in one.measurements
    }
    corrected = holm({key: one.p_value for key, one in found.items() if one.p_value is not None})
    for key, p_value in corrected.items():
        found[key] = found[key].model_copy(update={"p_corrected": p_value, "comparisons": len(corrected)})
    return found


def overview_note(tasks: Tasks) -> str:
    """Say what the table holds, and how many comparisons its p-values were corrected for."""
    count = sum(one.p_value is not None for one in overview_figures(tasks).values())
    text = (
        "Of each task its first measure; in brackets 95 % intervals; below it the paired difference to the base. What is "
        "missing in more than 5 % of the answers is marked, and not compared."
    )
    return f"{text} p-values are {comparisons(count)} (Holm), all of this table." if count else text


def regressions(tasks: Tasks) -> list[str]:
    """Say what fell, task by task."""
    return [text for name, results in tasks.items() for text in findings.regressions(results, name)]


def regression_note(tasks: Tasks) -> str:
    """What lies below the base's beside the regressions; or that nothing does."""
    further = [text for name, results in tasks.items() for text in findings.further_falls(results, name)]
    if further:
        return findings.further_note(further, regressions(tasks))
    compared = any(
        one.minus_base is not None
        for results in tasks.values()
        for method in results.methods.values()
        for one in method.measurements.values()
    )
    if not compared or regressions(tasks):
        return ""
    return "No figure is worse than the base's by more than its interval."
