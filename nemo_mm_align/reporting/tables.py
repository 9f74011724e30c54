"""Values as a report's tables and lists show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Bounds = tuple[float, float]
Fact = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        value: its text.
        small: what stands below it, on one line unless `wraps`.
        colour: of a dot before it.
        more: further lines below it.
        worry: what stands last, so that nobody overlooks it.
        strong: whether its value is in bold.
    """

    value: str
    small: str = ""
    wraps: bool = False
    colour: str = ""
    more: tuple[str, ...] = ()
    worry: str = ""
    strong: bool = False

    @property
    def lines(self) -> list[str]:
        """All its text, line by line."""
        return [line for line in (self.value, self.small, *self.more, self.worry) if line]


def cells(*values: object) -> list[Cell]:
    """Return a row of plain values."""
    return [Cell(str(value)) for value in values]


def measured(value: float | None, bounds: Bounds | None = None, form: str = ".2f") -> Cell:
    """Return a number with its interval below it; `form` is a format of Python's."""
    return Cell(number(value, form), bracket(bounds, form))


def number(value: float | None, form: str = ".2f") -> str:
    """Return a number; a dash where nothing was measured or where it is not defined (nan)."""
    return "–" if value is None or value != value else format(value, form)


def bracket(bounds: Bounds | None, form: str = ".2f") -> str:
    """Return an interval as ``[low, high]``; nothing where there is none."""
    return f"[{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""


def named_values(values: Mapping[str, float]) -> str:
    """Return ``helpfulness 3, correctness 4``."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[Fact]:
    """Yield nested settings as pairs of a dotted name and a text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def fact_lists(lists: Iterable[tuple[str, Iterable[Fact]]]) -> list[tuple[str, list[Fact]]]:
    """Return headings with their facts; empty ones are left out."""
    return [(heading, pairs) for heading, facts in lists if (pairs := list(facts))]
