"""The report's tables and cards, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation import findings, plots, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.measures import Measurement
from nemo_mm_align.evaluation.results import MethodResult, Reproduction, Results
from nemo_mm_align.reporting.tables import Cell, Fact, bracket, cells, fact_lists, flat, measured, number
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt


@dataclass(frozen=True)
class ReportSample:
    """A held-out prompt with every method's answer; `reference` is what a right answer says, if known."""

    prompt: Prompt
    image_paths: tuple[Path, ...]
    answers: Mapping[str, ScoredAnswer]
    reference: str = ""


def _metric(result: MethodResult, name: str, digits: int = 2) -> Cell:
    found = result.measurements.get(name)
    if found is None:
        return measured(None, None)
    return replace(measured(found.value, bounds_of(found.interval), f".{digits}f"), **_failed(found))


def _failed(found: Measurement) -> dict[str, Any]:
    """The share of failures, which stands beside the value; as a worry where it is too large to compare."""
    if not found.failed:
        return {}
    share = f"{findings.share_of(found.failed_share)} failed"
    return {"worry": share} if found.unreliable else {"more": (share,)}


def compared_cell(found: Measurement | None, digits: int = 2) -> Cell:
    """A figure, its interval, and its difference to the base with a p-value, in one cell."""
    if found is None:
        return Cell("–")
    cell = replace(measured(found.value, bounds_of(found.interval), f".{digits}f"), **_failed(found))
    if found.minus_base is None:
        return cell
    return replace(cell, more=(*cell.more, f"{difference_text(found, digits)} to base", *_p(found)))


def difference_text(found: Measurement, digits: int = 2) -> str:
    """``+0.12 [+0.03, +0.21]``."""
    form = f"+.{digits}f"
    return f"{found.minus_base:{form}} {bracket(bounds_of(found.minus_base_interval), form)}".strip()


def _p(found: Measurement) -> tuple[str, ...]:
    if found.p_value is None:
        return ()
    raw, corrected = findings.p_text(found.p_value), found.p_corrected
    several = corrected is not None and found.comparisons is not None and found.comparisons > 1
    said = f"p {raw}" if raw.startswith("<") else f"p = {raw}"
    return (f"{said}, corrected {findings.p_text(corrected)}",) if several and corrected is not None else (said,)


def _method(name: str, results: Results, small: str = "") -> Cell:
    return Cell(wording.label_of(name), small, wraps=True, colour=plots.colour_of(name, list(results.methods)))


def method_row(
    name: str, result: MethodResult, results: Results, schema: AttributeSchema, has_base: bool
) -> list[Cell]:
    """One method in the table of methods."""
    values = [f"{schema[attribute].label}:{value:g}" for attribute, value in (result.asked or {}).items()]
    asked = f"asked {', '.join(values)}" if values else ""
    first = results.primary
    difference = _differences(result, results) if has_base else []
    others = [_metric(result, measure.name, measure.digits) for measure in results.columns]
    return [_method(name, results, asked), _metric(result, first.name, first.digits), *difference, *others]


def attribute_row(name: str, result: MethodResult, results: Results, schema: AttributeSchema) -> list[Cell]:
    """One method in the table of judged attributes."""
    return [_method(name, results), *(_metric(result, f"judged.{attribute}") for attribute in schema.names)]


def method_heads(results: Results, has_base: bool) -> list[str]:
    """Heads of the table of methods."""
    first = results.primary.name.replace("_", " ").capitalize()
    differences = [f"{first} − base"] if has_base else []
    if has_length_control(results):
        differences.append(f"{first} − base at equal length")
    return ["Method", results.primary.label, *differences, *(measure.label for measure in results.columns)]


def has_length_control(results: Results) -> bool:
    """Whether any method's difference to the base is known at equal length."""
    found = [one.measurements.get(results.primary.name) for one in results.methods.values()]
    return any(one is not None and one.length_controlled is not None for one in found)


def _differences(result: MethodResult, results: Results) -> list[Cell]:
    digits, found = results.primary.digits, result.measurements.get(results.primary.name)
    cell, equal = Cell(""), Cell("")
    if found is not None and found.minus_base is not None:
        cell = measured(found.minus_base, bounds_of(found.minus_base_interval), f"+.{digits}f")
        cell = replace(cell, more=_p(found))
    if found is not None and found.length_controlled is not None:
        equal = measured(found.length_controlled, bounds_of(found.length_controlled_interval), f"+.{digits}f")
    return [cell, equal] if has_length_control(results) else [cell]


def taste(schema: AttributeSchema) -> str:
    """Which attributes have no better direction."""
    names = [attribute.name for attribute in schema.attributes if attribute.higher_is_better is None]
    return f"{wording.listing(names).capitalize()}: a matter of taste, no better direction." if names else ""


def training_row(name: str, result: MethodResult) -> list[Cell]:
    """What one method's training consisted of."""
    facts = result.training
    assert facts is not None
    settings = ", ".join(f"{key} {value}" for key, value in flat(facts.settings))
    numbers = (facts.examples, facts.epochs, facts.optimizer_steps, facts.seconds)
    return cells(wording.label_of(name), *(number(value, ",.4g") for value in numbers), settings)


def health_card(name: str, result: MethodResult, results: Results) -> dict[str, Any]:
    """What one method's training says of itself: its verdict, and the findings behind it."""
    facts = result.training
    assert facts is not None and facts.health is not None
    return {
        "label": wording.label_of(name),
        "colour": plots.colour_of(name, list(results.methods)),
        "verdict": facts.health.summary,
        "steps": facts.health.steps,
        "findings": [(finding.text, finding.worry) for finding in facts.health.findings],
    }


def made_of(results: Results) -> list[tuple[str, list[Fact]]]:
    """Headings with (name, value) pairs for the end of the page."""
    seeds = [("seeds", ", ".join(map(str, results.seeds))), ("written", results.created)]
    return fact_lists(
        [
            ("Seeds", seeds),
            *reproduction_facts(results),
            ("Settings", flat(results.settings)),
            ("Versions", results.versions.items()),
        ]
    )


def reproduction_facts(results: Results) -> list[tuple[str, list[Fact]]]:
    """Headings with what it takes to repeat an evaluation."""
    said = results.reproduction or Reproduction()
    judge = [("judge", said.judge)] if said.judge else []
    judge += [("it said that it was", ", ".join(said.judge_versions))] if said.judge_versions else []
    return [
        ("Command", [("command", said.command)] if said.command else []),
        ("Task", list(flat(said.task))),
        ("Files that the task was made of", [(source.name, source.said) for source in results.sources]),
        ("Judge", [*judge, *flat(said.judge_settings)]),
        ("Decoding", list(flat(said.decoding))),
    ]
