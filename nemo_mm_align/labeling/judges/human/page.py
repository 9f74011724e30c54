"""From a desk to its pages: candidates in the order of the request, no scores of anybody else, every text escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from nemo_mm_align.labeling.items import Item
from nemo_mm_align.labeling.judges.human.answers import note_field, score_field
from nemo_mm_align.labeling.judges.human.desk import Desk, Task
from nemo_mm_align.labeling.judges.human.template import TEMPLATES
from nemo_mm_align.labeling.rubric import SPEAKERS
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.schema.records import IMAGE_PLACEHOLDER

MOST_CHOICES = 11
"""Scales of more whole numbers get a number field."""

QUESTION_LENGTH = 80
"""Characters of a question in the list of answers."""

DIRECTIONS = {True: "higher is better", False: "lower is better", None: "neither end is better"}

_templates = Environment(loader=DictLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def render_task(desk: Desk, nonce: str, task: Task, values: Mapping[str, str] | None = None, error: str = "") -> str:
    """Return the page of a prompt, with the scores that stand for it if it was answered.

    Args:
        desk: where the task comes from.
        nonce: that the page's own style and script carry.
        values, error: what was filled in, and why it was not accepted.
    """
    task_values = task.values if values is None else values
    common = {"error": error, "values": task_values, "before": desk.before(task.item.key)}
    return _render("task", desk, nonce, **common, **_describe(task, desk))


def render_answers(desk: Desk, nonce: str) -> str:
    """Return the list of all answers, each with a link to its page."""
    schema = desk.context.schema
    rows = [
        {
            "key": item.key,
            "prompt": item.prompt.id,
            "question": _question(item),
            "scores": [
                " ".join(f"{attempt.ratings[index][name]:g}" for name in schema.names) for index in attempt.order
            ],
            "time": attempt.time.replace("T", " ")[:19],
            "revision": attempt.revision,
        }
        for item, attempt in desk.answers()
    ]
    return _render("answers", desk, nonce, rows=rows, names=schema.names)


def render_complete(desk: Desk, nonce: str) -> str:
    """Return the page that stands when every prompt is answered: the last answers can still be corrected."""
    return _render("complete", desk, nonce, before=desk.before(None))


def render_closing(desk: Desk, nonce: str, closing: str) -> str:
    """Return the last page."""
    return _render("closing", desk, nonce, closing=closing)


def _render(template: str, desk: Desk, nonce: str, **values: Any) -> str:
    common = {
        "title": "Label answers",
        "nonce": nonce,
        "judge": desk.context.judge.name,
        "done": desk.done,
        "total": desk.tally.total,
        "waiting": desk.waiting,
    }
    return _templates.get_template(template).render(**common, **values)


def _describe(task: Task, desk: Desk) -> dict[str, Any]:
    item, schema = task.item, desk.context.schema
    texts = [item.candidates.candidates[index].text for index in item.order]
    return {
        "key": item.key,
        "prompt": item.prompt.id,
        "skipped": task.skipped,
        "revision": task.revision,
        "answered": task.answer.time.replace("T", " ")[:19] if task.answer else None,
        "want_reference": desk.context.want_reference,
        "turns": list(_turns(item)),
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


def _question(item: Item) -> str:
    """Return the start of the last question, in one line."""
    text = " ".join(item.prompt.turns[-1].content.replace(IMAGE_PLACEHOLDER, " ").split())
    return text if len(text) <= QUESTION_LENGTH else text[: QUESTION_LENGTH - 1] + "…"


def _turns(item: Item) -> Iterator[dict[str, Any]]:
    number = 0
    for turn in item.prompt.turns:
        parts: list[dict[str, Any]] = []
        for index, text in enumerate(turn.content.split(IMAGE_PLACEHOLDER)):
            if index:
                parts.append({"image": f"image/{item.key}/{number}", "number": number + 1})
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
