"""Faults of a configuration in words: the key, the value, and what it must be."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from nemo_mm_align.errors import UserError, shorten

_SHOWN = 80


def describe_fault(error: ValidationError, where: str = "", tags: Collection[str] = ()) -> str:
    """Return the first fault of a validation as a sentence with the key, the value and what it must be.

    Args:
        tags: parts of a fault's place that are no keys.
    """
    fault = error.errors()[0]
    cause = fault.get("ctx", {}).get("error")
    parts = [*([where] if where else []), *(str(part) for part in fault["loc"] if part not in (*tags, "[key]"))]
    name = ".".join(parts) or "the configuration"
    if isinstance(cause, UserError):
        return str(cause)
    if fault["type"] == "missing":
        return f"{name} has no value. Give it on the command line: {name}=..."
    if fault["type"] == "extra_forbidden":
        return f"configuration has no key {name}. Remove it."
    if fault["type"] in ("value_error", "assertion_error"):
        text = str(cause) if cause is not None else fault["msg"]
        return text if text.startswith(name) else f"{name}: {text.rstrip('.')}."
    return f"{name}={shown(fault['input'])}: {_wanted(fault)}."


_WANTED = {
    "bool": "must be true or false, without quotes",
    "int": "must be a whole number",
    "float": "must be a number",
    "finite": "must be a finite number",
    "string": "must be a text; put it in quotes where it looks like a number or a word of YAML's",
    "list": "must be a list, [A,B]",
    "tuple": "must be a list, [A,B]",
    "dict": "is a section; give its keys one by one, KEY=VALUE",
    "model": "is a section; give its keys one by one, KEY=VALUE",
    "dataclass": "is a section; give its keys one by one, KEY=VALUE",
    "path": "must be a path",
    "none": "must be null",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def _wanted(fault: Any) -> str:
    kind, context = str(fault["type"]), fault.get("ctx", {})
    if kind == "literal_error":
        return f"choose from {str(context['expected']).replace(chr(39), '').replace(' or ', ', ')}"
    bound = next((f"must be {words} {context[name]:g}" for name, words in _BOUNDS.items() if name in context), None)
    if "pattern" in context:
        return f"must be written like {context['pattern']}"
    known = next((text for start, text in _WANTED.items() if kind.startswith(start)), None)
    return bound or known or str(fault["msg"]).rstrip(".").lower()


def shown(value: Any) -> str:
    """Return a value as a message shows it: as it would be typed, and not at any length."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)
    return shorten(text, _SHOWN)
