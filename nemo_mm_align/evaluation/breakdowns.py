"""Figures part by part: of each grouped measure a table of its parts, methods beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nemo_mm_align.evaluation import tables, wording
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.tasks.rated import JUDGED
from nemo_mm_align.reporting.tables import Cell


def breakdowns(results: Results) -> list[dict[str, Any]]:
    """Return label, sentence, heads and rows for each grouped measure with values; judged attributes have their own table."""
    found = []
    for measure in results.measures:
        if measure.grouped and measure.name != JUDGED.name and (rows := list(_rows(results, measure))):
            heads = ["", "Answers", *(wording.label_of(name) for name in results.methods)]
            found.append({"label": measure.label, "about": measure.about, "heads": heads, "rows": rows})
    return found


def parts_of(results: Results, measure: Measure) -> list[str]:
    """Return the parts of a grouped measure that any method has a value of, in the order in which they are met."""
    names = [name for method in results.methods.values() for name in method.measurements]
    return list(dict.fromkeys(name.partition(".")[2] for name in names if name.startswith(f"{measure.name}.")))


def _rows(results: Results, measure: Measure) -> Iterator[list[Cell]]:
    for part in sorted(parts_of(results, measure)):
        figures = [method.measurements.get(f"{measure.name}.{part}") for method in results.methods.values()]
        most = max(one.n + one.failed for one in figures if one is not None)
        yield [Cell(part), Cell(str(most)), *(tables.compared_cell(one, measure.digits) for one in figures)]
