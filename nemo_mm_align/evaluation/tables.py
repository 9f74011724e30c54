"""The report's tables and cards, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.measures import Measure, Measurement
from nemo_mm_align.evaluation.results import MethodResult, Reproduction, Results
from nemo_mm_align.evaluation.tasks.rated import CORRECTNESS
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.tables import Cell, Fact, bracket, cells, fact_lists, flat, measured, named_values, number
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Prompt

MAX_EDGE = 512
"""Larger sample images are scaled down to this many pixels."""
_LONG = 200
"""Characters of an answer that is better read beside the others' than among them."""


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
    share = f"{wording.share_of(found.failed_share)} failed"
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
    raw, corrected = wording.p_text(found.p_value), found.p_corrected
    several = corrected is not None and found.comparisons is not None and found.comparisons > 1
    said = f"p {raw}" if raw.startswith("<") else f"p = {raw}"
    return (f"{said}, corrected {wording.p_text(corrected)}",) if several and corrected is not None else (said,)


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


def sample_card(
    sample: ReportSample, names: list[str], schema: AttributeSchema, measures: Sequence[Measure] = ()
) -> dict[str, Any]:
    """One sample prompt with its images inlined and the answers of all methods."""
    labels = {measure.name: measure.label for measure in measures}
    notes = [f"Reference: {sample.reference}"] if sample.reference else []
    notes += dict.fromkeys(note for answer in sample.answers.values() for note in answer.notes)
    shown = {name: sample.answers[name] for name in names if name in sample.answers}
    long = any(len(answer.answer) > _LONG for answer in shown.values())
    return {
        "images": [image_uri(path, MAX_EDGE, "png") for path in sample.image_paths],
        "question": sample.prompt.question,
        "follow_ups": sample.prompt.follow_ups,
        "notes": notes,
        "wide": long or bool(sample.prompt.follow_ups),
        "answers": [
            {
                "label": wording.label_of(name),
                "colour": plots.colour_of(name, names),
                **_sample_answer(answer, schema, labels, sample.prompt.follow_ups),
            }
            for name, answer in shown.items()
        ],
    }


def _sample_answer(
    answer: ScoredAnswer, schema: AttributeSchema, labels: Mapping[str, str], follow_ups: Sequence[str]
) -> dict[str, Any]:
    ratings = schema.check(answer.ratings) if answer.ratings else {}
    later = [*answer.follow_up_answers, *["(not answered)"] * len(follow_ups)][: len(follow_ups)]
    return {
        "text": answer.answer or "(empty)",
        "turns": [text or "(empty)" for text in (answer.answer, *later)],
        "verdict": _verdict(ratings, schema),
        "scores": named_values(ratings or _short(answer.values, labels)) or answer.failed,
        "judgements": answer.judgements,
    }


def _short(values: Mapping[str, float], labels: Mapping[str, str]) -> dict[str, float]:
    return {labels.get(name, name): round(value, 3) for name, value in values.items() if "." not in name}


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
