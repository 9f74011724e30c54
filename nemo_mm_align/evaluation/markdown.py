"""report.md: the report's tables and sentences in Markdown, out of the same values as its page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nemo_mm_align.evaluation.cost_table import COST_HEADS
from nemo_mm_align.reporting.tables import Cell, Fact


def report(title: str, section: Mapping[str, Any], costs: Sequence[Sequence[Cell]]) -> str:
    """Return the text of a single task's report."""
    return join([f"# {escape(title)}", *section_parts(section, 2), *cost_parts(costs, 2)])


def join(parts: Iterable[str]) -> str:
    """Put paragraphs, tables and headings below each other."""
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    for sign in "*_`[]":
        plain = plain.replace(sign, f"\\{sign}")
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table: the first column to the left, the others to the right; a cell's lines stay below each other."""
    ruler = ["---", *["---:"] * (len(heads) - 1)]
    lines = [[escape(head) for head in heads], ruler]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    first, *others = [escape(line) for line in cell.lines] or [""]
    return "<br>".join([f"**{first}**" if cell.strong else first, *others])


def section_parts(section: Mapping[str, Any], level: int) -> list[str]:
    """Return what a task's section says: sentences, tables, samples left out (they stand in the page)."""
    head = "#" * level
    said = [*section["headline"], section["basis"], *(f"**Regression.** {text}" for text in section["regressions"])]
    said += [section["regression_note"]] if section["regression_note"] else []
    parts = [*(_sentence(text) for text in said), *(f"> {escape(note)}" for note in section["notes"])]
    parts += [f"{head} Methods on held-out prompts", table(section["method_heads"], section["method_rows"])]
    basis = f"In brackets: 95 % intervals {section['interval_basis']}. Differences to the base are paired."
    parts += [escape(" ".join([*section["abouts"], basis, section["tests_basis"]]))]
    parts += [escape(text) for text in section["cautions"]]
    for one in section["breakdowns"]:
        parts += [f"{head} {escape(one['label'])}", escape(one["about"]), table(one["heads"], one["rows"])]
    if section["attributes_plot"]:
        parts += [f"{head} Judged attributes", table(section["attribute_heads"], section["attribute_rows"])]
    if section["steering_rows"]:
        parts += [f"{head} Steering: asked against judged", table(section["steering_heads"], section["steering_rows"])]
    for one in section["cross_talk"]:
        parts += [f"{head}# {escape(one['label'])}: {section['cross_talk_title']}", table(one["heads"], one["rows"])]
    parts += [escape(section["cross_talk_about"])] if section["cross_talk"] else []
    return [*parts, f"{head} How this was made", *fact_parts(section["fact_lists"], level + 1)]


def cost_parts(costs: Sequence[Sequence[Cell]], level: int) -> list[str]:
    """Return what judging cost; nothing where nobody was asked."""
    return ["#" * level + " What judging cost", table(COST_HEADS, costs)] if costs else []


def _sentence(text: str) -> str:
    mark = "**Regression.** "
    return mark + escape(text.removeprefix(mark)) if text.startswith(mark) else escape(text)


def fact_parts(lists: Sequence[tuple[str, Sequence[Fact]]], level: int) -> Iterable[str]:
    """Yield headings and lists of facts."""
    for heading, pairs in lists:
        yield f"{'#' * level} {escape(heading)}"
        yield "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in pairs)
