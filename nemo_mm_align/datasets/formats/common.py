"""Helpers of the format parsers: typed access to the fields of records that other people wrote."""

from __future__ import annotations

import ast
import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.datasets.faults import MalformedRecord, Problem
from nemo_mm_align.datasets.formats.keys import OTHER_FORMATS, as_listed, says_nothing
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.chat_template import IMAGE_PART

SCORE_KEYS = ("chosen_score", "rejected_score")
RATING_KEYS = ("chosen_ratings", "rejected_ratings")
PART_KEYS = {"image": ("type", "index"), "text": ("type", "text", "index")}
"""Keys of a part of a message's content, by its type; any other refuses the record."""
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
    got = "is missing" if value is None else f"is {type(value).__name__} {_shown(value)}"
    return MalformedRecord(Problem("field", f"{key} {got}.", f"{key} must be {expected}."))


def _shown(value: Any) -> str:
    """The beginning of a value; of a number or a list without end no more than that."""
    if isinstance(value, str):
        return repr(shorten(value, 60))
    try:
        return repr(shorten(reprlib.repr(value), 60))
    except ValueError:  # a whole number of more digits than Python writes out
        return "of very many digits"


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
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number beyond any float
        pass
    raise malformed(key, value, "a finite number")


def label_field(record: Mapping[str, Any], key: str) -> bool:
    """Return true or false, or raise `MalformedRecord`: 0 and 1 may be anything."""
    value = record.get(key)
    if not isinstance(value, bool):
        raise malformed(key, value, "true (a desirable answer) or false (an undesirable one)")
    return value


def image_list(record: Mapping[str, Any]) -> list[str | Path]:
    """Return the record's image paths: of ``image`` or ``images``, a path or a list of paths; an empty one says nothing."""
    single, several = (_images(record, key) for key in ("image", "images"))
    if single and several and single != several:
        problem = Problem("images", "image and images name different pictures.", "keep one of the two keys.")
        raise MalformedRecord(problem)
    return single or several


def _images(record: Mapping[str, Any], key: str) -> list[str | Path]:
    value = record.get(key)
    items = list(value) if isinstance(value, list | tuple) else [value]
    found = [item for item in map(_image, items) if item is not None]
    if not all(isinstance(item, str | Path) for item in found):
        raise malformed(key, value, "a path or a list of paths")
    return found


def _image(item: Any) -> Any:
    """A path, also that of an image struct of Arrow; None where there is neither path nor bytes."""
    if isinstance(item, Mapping) and set(item) <= {"bytes", "path"} and not item.get("bytes"):
        item = item.get("path")
    return None if item == "" else item


def turn_list(record: Mapping[str, Any], key: str, role_key: str, content_key: str) -> list[list[str]]:
    """Return a list of messages as [role, content] pairs, roles in our words."""
    messages = record.get(key)
    if not isinstance(messages, list) or not messages:
        raise malformed(key, messages, "a list of messages")
    _check_image_order(key, messages)
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
    if not isinstance(kind, str) or kind not in PART_KEYS:
        raise malformed(where, part, 'parts of {"type": "image"} and {"type": "text", "text": ...}')
    unread = [key for key, value in part.items() if key not in PART_KEYS[kind] and not says_nothing(key, value)]
    if unread:
        problem = f"{where} has a part of type {kind} with {shorten(', '.join(unread))}, which is not read."
        remedy = "list images beside the messages, in their order." if kind == "image" else "remove it."
        raise MalformedRecord(Problem("unread_key", problem, remedy))
    if kind == "image":
        return IMAGE_PART
    if not isinstance(part.get("text"), str):
        raise malformed(f"{where}: the text of a part", part.get("text"), "a string")
    return str(part["text"])


def _check_image_order(where: str, messages: Any) -> None:
    """Raise `MalformedRecord` where image parts say by an ``index`` that they stand for other pictures than the next ones."""
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    indices = [part.get("index") for part in parts if isinstance(part, Mapping) and part.get("type") == "image"]
    if any(index is not None and index != place for place, index in enumerate(indices)):
        problem = f"{where}: image parts have the indices {shorten(str(indices), 60)}, not 0, 1, ... in their order."
        raise MalformedRecord(Problem("images", problem, "list the images in the order of their parts."))


def message_text(record: Mapping[str, Any], key: str, role: str) -> str:
    """Return the text of a message that is a dict ``{from, value}``, the string of such a dict, or plain text.

    An answer may itself be JSON: a string is unwrapped only where it has exactly these keys and is said by `role`.
    """
    value = record.get(key)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _literal(value, role)
    if not isinstance(value, Mapping):
        return text_field({key: value}, key)
    speaker = _either(value, key, "from", "role")
    if speaker is not None and ROLES.get(str(speaker).lower()) != role:
        raise malformed(f"{key}.from", speaker, f"one who speaks as {role}")
    return text_field({key: _either(value, key, "value", "content")}, key)


def _either(message: Mapping[str, Any], where: str, first: str, second: str) -> Any:
    """The value of one of two keys that mean the same; raise `MalformedRecord` where both have one of their own."""
    given = [message[key] for key in (first, second) if message.get(key) is not None]
    if len(given) == 2 and given[0] != given[1]:
        problem = f"{where} has {first} and {second}, which say different things."
        raise MalformedRecord(Problem("field", problem, "keep one of the two keys."))
    return given[0] if given else None


def _literal(text: str, role: str) -> Any:
    """Return the message that `text` spells as JSON or as a Python literal, or `text` itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # the literal {[]: 1} is a TypeError
            continue
        is_message = isinstance(value, dict) and set(value) == {"from", "value"} and isinstance(value["value"], str)
        if is_message and ROLES.get(str(value["from"]).lower()) == role:
            return value
    return text


def score_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores and ratings of a pair, which our exports of other formats carry along."""
    scores = {key: number_field(record, key) for key in SCORE_KEYS}
    return scores | {key: mapping_field(record, key) for key in RATING_KEYS}


def mapping_field(record: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """Return an object, None where it is absent, or raise `MalformedRecord`."""
    value = record.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise malformed(key, value, "an object")
    return None if value is None else dict(value)


def extra_fields(record: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Return the fields that a format does not use, as metadata, where JSON can hold them.

    A ``metadata`` object, which our exports carry along, is taken over as it is. Texts of another format are left out.
    """
    own = record.get("metadata")
    extras = dict(own) if isinstance(own, Mapping) else {} if own is None else {"metadata": own}
    for key, value in record.items():
        if key in known or value is own or as_listed(key) in OTHER_FORMATS:
            continue
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError):
            continue
        extras[key] = value
    return extras
