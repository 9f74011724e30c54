"""Sample prompts with the answers of all methods, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_mm_align.evaluation import plots, wording
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.measures import Measure
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.tasks.rated import CORRECTNESS
from nemo_mm_align.reporting.images import image_uri
from nemo_mm_align.reporting.tables import named_values
from nemo_mm_align.schema.attributes import AttributeSchema

MAX_EDGE = 512
"""Larger sample images are scaled down to this many pixels."""
_LONG = 200
"""Characters of an answer that is better read beside the others' than among them."""


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
