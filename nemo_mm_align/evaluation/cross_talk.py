"""How every judged attribute moves as one of them is asked for: a table per steered model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.results import Results, SteeringResult
from nemo_mm_align.reporting.tables import Cell

TITLE = "judged change per step asked"
ABOUT = (
    "A row is an attribute that is asked for, a column one that is judged: the change of its judged value per step asked, the "
    "others being asked at their defaults. In bold: the attribute itself; what stands elsewhere is cross-talk."
)


def cross_talk(results: Results) -> list[dict[str, Any]]:
    """Return label, colour, heads and rows of each steered model's table; none of one that was judged on one attribute."""
    names = [*results.methods, *results.steering_by_method]
    found = []
    for method, steering in results.steering_by_method.items():
        judged = list(dict.fromkeys(name for one in steering.values() for name in _changes(one)))
        if len(judged) > 1:
            heads = ["Asked \u2193 judged \u2192", *judged]
            rows = _rows(steering, judged)
            label, colour = wording.label_of(method), plots.colour_of(method, names)
            found.append({"label": label, "colour": colour, "heads": heads, "rows": rows})
    return found


def _changes(result: SteeringResult) -> Mapping[str, float]:
    """Of every judged attribute; results of old have those alone that are matters of taste."""
    return result.matrix or result.cross_talk


def _rows(steering: Mapping[str, SteeringResult], judged: list[str]) -> list[list[Cell]]:
    return [
        [Cell(asked), *(_change(_changes(one).get(name), name == asked) for name in judged)]
        for asked, one in steering.items()
    ]


def _change(value: float | None, itself: bool) -> Cell:
    return Cell("–" if value is None else f"{value:+.2f}", strong=itself)
