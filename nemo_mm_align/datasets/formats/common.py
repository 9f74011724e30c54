"""Helpers of the format parsers: typed access to the fields of records that other people wrote."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.chat_template import IMAGE_PART
from nemo_mm_align.datasets.faults import MalformedRecord, Problem

SCORE_KEYS = ("chosen_score", "rejected_score")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class Context:
    """What a parser may need beyond the record.

    Args:
        schema: the attribute schema, or None.
        ignore_labels: labels outside the schema that are left out without a fault.
    """

    def __init__(self, schema: AttributeSchema | None = None, ignore_labels: Iterable[str] = ()) -> None:
        self.schema, self.ignore_labels = schema, tuple(ignore_labels)


def malformed(key: str, value: Any, expected: str) -> MalformedRecord:
    """Return the exception for a field that is missing (None) or of the wrong type."""
    got = "is missing" if value is None else f"is {type(value).__name__} {str(value)[:60]!r}"
    return MalformedRecord(Problem("field", f"{key} {got}.", f"{key} must be {expected}."))


def text_field(record: Mapping[str, Any], key: str) -> str:
    """Return a string field, or raise `MalformedRecord`."""
    value = record.get(key)
    if not isinstance(value, str):
        raise malformed(key, value, "a string")
    return value


def number_field(record: Mapping[str, Any], key: str) -> float | None:
    """Return a number, None where it is absent, or raise `MalformedRecord`."""
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise malformed(key, value, "a finite number")
    return float(value)


def image_list(record: Mapping[str, Any]) -> list[str | Path]:
    """Return the record's image paths (``image`` or ``images``: a path or a list of paths)."""
    value = record.get("image", record.get("images"))
    if value is None or value == "":
        return []
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | Path) for item in items):
        raise malformed("image", value, "a path or a list of paths")
    return list(items)


def turn_list(record: Mapping[str, Any], key: str, role_key: str, content_key: str) -> list[list[str]]:
    """Return a list of messages as [role, content] pairs, roles in our words."""
    messages = record.get(key)
    if not isinstance(messages, list) or not messages:
        raise malformed(key, messages, "a list of messages")
    return [_turn(message, f"{key}[{index}]", role_key, content_key) for index, message in enumerate(messages)]


def _turn(message: Any, where: str, role_key: str, content_key: str) -> list[str]:
    if not isinstance(message, Mapping):
        raise malformed(where, message, "an object")
    role = ROLES.get(str(message.get(role_key)).lower())
    if role is None:
        raise malformed(f"{where}.{role_key}", message.get(role_key), f"one of {', '.join(ROLES)}")
    return [role, content_text(message.get(content_key), f"{where}.{content_key}")]


def content_text(content: Any, where: str) -> str:
    """Return a message's content as text; a list of image and text parts becomes text with placeholders."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise malformed(where, content, "a string or a list of parts")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "image":
        return IMAGE_PART
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise malformed(where, part, 'parts of {"type": "image"} and {"type": "text", "text": ...}')


def message_text(record: Mapping[str, Any], key: str) -> str:
    """Return the text of a message that is a dict ``{from, value}``, the string of such a dict, or plain text."""
    value = record.get(key)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _literal(value)
    if isinstance(value, Mapping):
        return text_field({key: value.get("value", value.get("content"))}, key)
    return text_field({key: value}, key)


def _literal(text: str) -> Any:
    """Return the mapping that `text` spells as JSON or as a Python literal, or `text` itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict) and "value" in value:
            return value
    return text


def score_fields(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the scores of a pair, which our exports of other formats carry along."""
    return {key: number_field(record, key) for key in SCORE_KEYS}


def extra_fields(record: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the fields that a format does not use, as metadata, where JSON can hold them.

    A ``metadata`` object, which our exports carry along, is taken over as it is.
    """
    own = record.get("metadata")
    extras = dict(own) if isinstance(own, Mapping) else {}
    for key, value in record.items():
        if key in known or value is own:
            continue
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            continue
        extras[key] = value
    return extras
