"""The report's tables, as plain values for the template."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.answers import JudgedAnswer
from nemo_mm_align.evaluation.metrics import CORRECTNESS
from nemo_mm_align.evaluation.results import MethodResult, Results, SteeringResult
from nemo_mm_align.images import load_image
from nemo_mm_align.records import IMAGE_PLACEHOLDER, Prompt

COLUMNS = {
    "correctness": "Correct",
    "hallucination": "Hallucination",
    "yes_no_accuracy": "Yes/no accuracy",
    "text_score": "Text",
    "length_words": "Words",
}
MAX_EDGE = 512
"""Larger sample images are scaled down to this many pixels."""

Cell = dict[str, str]


@dataclass(frozen=True)
class ReportSample:
    """A held-out prompt with every method's answer; `reference` is what a right answer says, if known."""

    prompt: Prompt
    image_paths: tuple[Path, ...]
    answers: Mapping[str, JudgedAnswer]
    reference: str = ""


def _cell(result: MethodResult, name: str, digits: int = 2) -> Cell:
    values = result.per_seed.get(name)
    value = sum(values) / len(values) if values else None
    return {"value": wording.number(value, digits), "small": wording.bracket(result.intervals.get(name), digits)}


def method_row(
    name: str, result: MethodResult, results: Results, schema: AttributeSchema, has_base: bool
) -> dict[str, Any]:
    """One method in the tables of methods and of judged attributes."""
    cells = [_cell(result, "score")]
    if has_base:
        cells.append(_difference(result))
    cells += [_cell(result, column, 1 if column == "length_words" else 2) for column in COLUMNS]
    return {
        "label": wording.label_of(name),
        "colour": plots.colour_of(name, list(results.methods)),
        "asked": schema.steering_string(result.asked).replace(",", ", ") if result.asked else "",
        "cells": cells,
        "attributes": [_cell(result, f"judged.{attribute}") for attribute in schema.names],
    }


def _difference(result: MethodResult) -> Cell:
    value = result.minus_base.get("score")
    interval = result.minus_base_intervals.get("score")
    text = "" if value is None else f"{value:+.2f}"
    return {"value": text, "small": wording.bracket(interval, signed=True)}


def taste(schema: AttributeSchema) -> str:
    """Which attributes have no better direction."""
    names = [attribute.name for attribute in schema.attributes if attribute.higher_is_better is None]
    return f"{wording.listing(names).capitalize()}: a matter of taste, no better direction." if names else ""


def asked_values(steering: Mapping[str, SteeringResult]) -> list[float]:
    """Every value that some attribute was asked at: the columns of the steering table."""
    return sorted({point.asked for result in steering.values() for point in result.curve})


def steering_rows(steering: Mapping[str, SteeringResult]) -> Iterator[dict[str, Any]]:
    """One attribute per row: rank correlation, and mean judged value at each asked one."""
    for name, result in steering.items():
        points = {point.asked: point for point in result.curve}
        yield {
            "name": name,
            "spearman": {"value": wording.number(result.spearman), "small": wording.bracket(result.interval)},
            "per_seed": ", ".join(wording.number(value) for value in result.spearman_per_seed),
            "cells": [
                {"value": wording.number(points[value].judged), "small": f"n = {points[value].count}"}
                if value in points
                else {"value": "–", "small": ""}
                for value in asked_values(steering)
            ],
        }


def sample_card(sample: ReportSample, names: list[str], schema: AttributeSchema) -> dict[str, Any]:
    """One sample prompt with its images inlined and the answers of all methods."""
    question = sample.prompt.turns[-1].content.replace(IMAGE_PLACEHOLDER, "").strip()
    absent = any(answer.absent for answer in sample.answers.values())
    return {
        "images": [image_data_uri(path) for path in sample.image_paths],
        "question": question,
        "reference": sample.reference,
        "note": "Asks about something that is not in the image." if absent else "",
        "answers": [
            _sample_answer(name, sample.answers[name], names, schema) for name in names if name in sample.answers
        ],
    }


def _sample_answer(name: str, answer: JudgedAnswer, names: list[str], schema: AttributeSchema) -> dict[str, str]:
    ratings = schema.check(answer.ratings)
    scores = ", ".join(f"{attribute} {value:g}" for attribute, value in ratings.items())
    return {
        "label": wording.label_of(name),
        "colour": plots.colour_of(name, names),
        "text": answer.answer or "(empty)",
        "verdict": _verdict(ratings, schema),
        "scores": scores,
    }


def _verdict(ratings: Mapping[str, float], schema: AttributeSchema) -> str:
    if CORRECTNESS not in ratings:
        return ""
    attribute, value = schema[CORRECTNESS], ratings[CORRECTNESS]
    return "right" if value == attribute.maximum else "wrong" if value == attribute.minimum else "partly"


def image_data_uri(path: Path) -> str:
    """Return an image as a PNG data URI, scaled down to `MAX_EDGE` if larger; raise `UserError` if it is broken."""
    image = load_image(path)
    image.thumbnail((MAX_EDGE, MAX_EDGE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def training_row(name: str, result: MethodResult) -> tuple[str, ...]:
    """What one method's training consisted of."""
    facts = result.training
    assert facts is not None
    settings = ", ".join(f"{key} {value}" for key, value in _flat(facts.settings))
    numbers = (facts.examples, facts.epochs, facts.optimizer_steps, facts.seconds)
    return (wording.label_of(name), *("–" if value is None else f"{value:,.4g}" for value in numbers), settings)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def fact_lists(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Headings with (name, value) pairs for the end of the page; empty ones are left out."""
    lists = [("Settings", list(_flat(results.settings))), ("Versions", list(results.versions.items()))]
    seeds = ("Seeds", [("seeds", ", ".join(map(str, results.seeds))), ("written", results.created)])
    return [(heading, facts) for heading, facts in [seeds, *lists] if facts]
