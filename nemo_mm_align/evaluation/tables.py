"""The report's tables and cards, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.results import MethodResult, Results
from nemo_mm_align.evaluation.tasks.rated import CORRECTNESS
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.tables import Cell, Fact, cells, fact_lists, flat, measured, named_values, number
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

MAX_EDGE = 512
"""Larger sample images are scaled down to this many pixels."""


@dataclass(frozen=True)
class ReportSample:
    """A held-out prompt with every method's answer; `reference` is what a right answer says, if known."""

    prompt: Prompt
    image_paths: tuple[Path, ...]
    answers: Mapping[str, ScoredAnswer]
    reference: str = ""


def _metric(result: MethodResult, name: str, digits: int = 2) -> Cell:
    found = result.measurements.get(name)
    return measured(found.value, bounds_of(found.interval), f".{digits}f") if found else measured(None, None)


def _method(name: str, results: Results, small: str = "") -> Cell:
    return Cell(wording.label_of(name), small, wraps=True, colour=plots.colour_of(name, list(results.methods)))


def method_row(
    name: str, result: MethodResult, results: Results, schema: AttributeSchema, has_base: bool
) -> list[Cell]:
    """One method in the table of methods."""
    values = [f"{schema[attribute].label}:{value:g}" for attribute, value in (result.asked or {}).items()]
    asked = f"asked {', '.join(values)}" if values else ""
    first = results.primary
    difference = [_difference(result, first.name)] if has_base else []
    others = [_metric(result, measure.name, measure.digits) for measure in results.columns]
    return [_method(name, results, asked), _metric(result, first.name, first.digits), *difference, *others]


def attribute_row(name: str, result: MethodResult, results: Results, schema: AttributeSchema) -> list[Cell]:
    """One method in the table of judged attributes."""
    return [_method(name, results), *(_metric(result, f"judged.{attribute}") for attribute in schema.names)]


def _difference(result: MethodResult, name: str) -> Cell:
    found = result.measurements.get(name)
    if found is None or found.minus_base is None:
        return Cell("")
    return measured(found.minus_base, bounds_of(found.minus_base_interval), "+.2f")


def taste(schema: AttributeSchema) -> str:
    """Which attributes have no better direction."""
    names = [attribute.name for attribute in schema.attributes if attribute.higher_is_better is None]
    return f"{wording.listing(names).capitalize()}: a matter of taste, no better direction." if names else ""


def sample_card(sample: ReportSample, names: list[str], schema: AttributeSchema) -> dict[str, Any]:
    """One sample prompt with its images inlined and the answers of all methods."""
    notes = [f"Reference: {sample.reference}"] if sample.reference else []
    notes += dict.fromkeys(note for answer in sample.answers.values() for note in answer.notes)
    return {
        "images": [image_uri(path, MAX_EDGE, "png") for path in sample.image_paths],
        "question": sample.prompt.question,
        "notes": notes,
        "answers": [
            _sample_answer(name, sample.answers[name], names, schema) for name in names if name in sample.answers
        ],
    }


def _sample_answer(name: str, answer: ScoredAnswer, names: list[str], schema: AttributeSchema) -> dict[str, str]:
    ratings = schema.check(answer.ratings) if answer.ratings else {}
    return {
        "label": wording.label_of(name),
        "colour": plots.colour_of(name, names),
        "text": answer.answer or "(empty)",
        "verdict": _verdict(ratings, schema),
        "scores": named_values(ratings) if ratings else answer.failed,
    }


def _verdict(ratings: Mapping[str, float], schema: AttributeSchema) -> str:
    if CORRECTNESS not in ratings:
        return ""
    attribute, value = schema[CORRECTNESS], ratings[CORRECTNESS]
    return "right" if value == attribute.maximum else "wrong" if value == attribute.minimum else "partly"


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
    return fact_lists([("Seeds", seeds), ("Settings", flat(results.settings)), ("Versions", results.versions.items())])
