"""cells.csv of a study: a line for each finished cell with the figures that tables are made of, for tables of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from nemo_mm_align.miniature.study.compare import Cells, Figure
from nemo_mm_align.miniature.study.figures import CellFigures


def cells_sheet(cells: Cells, figures: Sequence[Figure]) -> str:
    """Return the text of the file.

    Args:
        cells: figures by variant and seed.
        figures: one column each, under its name; empty where a cell has none.
    """
    text = io.StringIO()
    about = ("variant", "recipe", "seed", "cpu_seconds", "settings_hash", "commit", "date")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*about, *(figure.name for figure in figures)])
    table.writerows(_lines(cells, figures))
    return text.getvalue()


def _lines(cells: Cells, figures: Sequence[Figure]) -> Iterator[list[str]]:
    for of_one in cells.values():
        for _, cell in sorted(of_one.items()):
            about = [cell.variant, cell.recipe or "", str(cell.seed), f"{cell.spent.cpu_seconds:.1f}"]
            yield [*about, cell.settings_hash, cell.commit, cell.date, *(_told(figure, cell) for figure in figures)]


def _told(figure: Figure, cell: CellFigures) -> str:
    value = figure.value(cell)
    return "" if value is None else f"{value:.6g}"
