"""The report's tables and cards, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.answers import JudgedAnswer
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.metrics import CORRECTNESS
from nemo_mm_align.evaluation.results import MethodResult, Results
from nemo_mm_align.records import Prompt
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.tables import Cell, Fact, cells, fact_lists, flat, measured, named_values, number

COLUMNS = {
    "correctness": "Correct",
    "hallucination": "Hallucination",
    "yes_no_accuracy": "Yes/no accuracy",
    "text_score": "Text",
    "length_words": "Words",
}
MAX_EDGE = 512
"""Larger sample images are scaled down to this many pixels."""


@dataclass(frozen=True)
class ReportSample:
    """A held-out prompt with every method's answer; `reference` is what a right answer says, if known."""

    prompt: Prompt
    image_paths: tuple[Path, ...]
    answers: Mapping[str, JudgedAnswer]
    reference: str = ""


def _metric(result: MethodResult, name: str, form: str = ".2f") -> Cell:
    values = result.per_seed.get(name)
    return measured(sum(values) / len(values) if values else None, bounds_of(result.intervals.get(name)), form)


def _method(name: str, results: Results, small: str = "") -> Cell:
    return Cell(wording.label_of(name), small, wraps=True, colour=plots.colour_of(name, list(results.methods)))


def method_row(
    name: str, result: MethodResult, results: Results, schema: AttributeSchema, has_base: bool
) -> list[Cell]:
    """One method in the table of methods."""
    values = [f"{schema[attribute].label}:{value:g}" for attribute, value in (result.asked or {}).items()]
    asked = f"asked {', '.join(values)}" if values else ""
    difference = [_difference(result)] if has_base else []
    metrics = [_metric(result, column, ".1f" if column == "length_words" else ".2f") for column in COLUMNS]
    return [_method(name, results, asked), _metric(result, "score"), *difference, *metrics]


def attribute_row(name: str, result: MethodResult, results: Results, schema: AttributeSchema) -> list[Cell]:
    """One method in the table of judged attributes."""
    return [_method(name, results), *(_metric(result, f"judged.{attribute}") for attribute in schema.names)]


def _difference(result: MethodResult) -> Cell:
    value, interval = result.minus_base.get("score"), result.minus_base_intervals.get("score")
    return Cell("") if value is None else measured(value, bounds_of(interval), "+.2f")


def taste(schema: AttributeSchema) -> str:
    """Which attributes have no better direction."""
    names = [attribute.name for attribute in schema.attributes if attribute.higher_is_better is None]
    return f"{wording.listing(names).capitalize()}: a matter of taste, no better direction." if names else ""


def sample_card(sample: ReportSample, names: list[str], schema: AttributeSchema) -> dict[str, Any]:
    """One sample prompt with its images inlined and the answers of all methods."""
    notes = [f"Reference: {sample.reference}"] if sample.reference else []
    if any(answer.absent for answer in sample.answers.values()):
        notes.append("Asks about something that is not in the image.")
    return {
        "images": [image_uri(path, MAX_EDGE, "png") for path in sample.image_paths],
        "question": sample.prompt.question,
        "notes": notes,
        "answers": [
            _sample_answer(name, sample.answers[name], names, schema) for name in names if name in sample.answers
        ],
    }


def _sample_answer(name: str, answer: JudgedAnswer, names: list[str], schema: AttributeSchema) -> dict[str, str]:
    ratings = schema.check(answer.ratings)
    return {
        "label": wording.label_of(name),
        "colour": plots.colour_of(name, names),
        "text": answer.answer or "(empty)",
        "verdict": _verdict(ratings, schema),
        "scores": named_values(ratings),
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
