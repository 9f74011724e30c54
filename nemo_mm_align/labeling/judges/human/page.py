"""From a task to its page: candidates in the order of the request, no scores of anybody, every text escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from nemo_mm_align.attributes import Attribute
from nemo_mm_align.labeling.judges.human.desk import Desk, Task, note_field, score_field
from nemo_mm_align.labeling.judges.human.template import PAGE
from nemo_mm_align.labeling.rubric import SPEAKERS
from nemo_mm_align.records import IMAGE_PLACEHOLDER

MOST_CHOICES = 11
"""Scales of more whole numbers get a number field."""

DIRECTIONS = {True: "higher is better", False: "lower is better", None: "neither end is better"}

_template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)


def render(
    desk: Desk, nonce: str, values: Mapping[str, str] | None = None, error: str = "", closing: str | None = None
) -> str:
    """Return the page for the task of the desk, or the last page.

    Args:
        desk: where the task comes from.
        nonce: that the page's own style and script carry.
        values, error: what was filled in, and why it was not accepted.
        closing: what the last page says.
    """
    task = desk.task if closing is None else None
    tally = desk.tally
    common = {
        "title": "Label answers",
        "nonce": nonce,
        "judge": desk.context.judge.name,
        "done": tally.labelled + tally.reused,
        "total": tally.total,
        "waiting": desk.waiting,
        "closing": closing or "All is labelled.",
        "error": error,
        "values": values or {},
        "task": task is not None,
        "skipped": task is not None and task.skipped,
    }
    return _template.render(**common, **(_describe(task, desk) if task is not None else {}))


def _describe(task: Task, desk: Desk) -> dict[str, Any]:
    job, schema = task.job, desk.context.schema
    texts = [job.candidates.candidates[index].text for index in job.order]
    return {
        "key": job.key,
        "want_reference": desk.context.want_reference,
        "turns": list(_turns(task)),
        "candidates": [
            {
                "position": position,
                "text": text,
                "note": note_field(position),
                "scores": [_score(position, attribute) for attribute in schema.attributes],
            }
            for position, text in enumerate(texts, start=1)
        ],
    }


def _turns(task: Task) -> Iterator[dict[str, Any]]:
    number = 0
    for turn in task.job.prompt.turns:
        parts: list[dict[str, Any]] = []
        for index, text in enumerate(turn.content.split(IMAGE_PLACEHOLDER)):
            if index:
                parts.append({"image": f"image/{task.job.key}/{number}", "number": number + 1})
                number += 1
            parts.append({"image": None, "text": text.strip("\n")})
        yield {"speaker": SPEAKERS[turn.role], "parts": parts}


def _score(position: int, attribute: Attribute) -> dict[str, Any]:
    whole = attribute.integer and attribute.maximum - attribute.minimum < MOST_CHOICES
    values = range(int(attribute.minimum), int(attribute.maximum) + 1) if whole else ()
    return {
        "name": attribute.name,
        "field": score_field(position, attribute.name),
        "description": f"{attribute.description} ({DIRECTIONS[attribute.higher_is_better]})".strip(),
        "choices": [{"value": str(value), "text": attribute.levels.get(value, "")} for value in values],
        "levels": [{"value": str(level), "text": text} for level, text in sorted(attribute.levels.items())],
        "minimum": f"{attribute.minimum:g}",
        "maximum": f"{attribute.maximum:g}",
        "step": "1" if attribute.integer else "any",
    }
