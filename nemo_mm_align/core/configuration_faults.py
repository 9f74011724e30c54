"""Faults of a configuration in words: the key, the value, and what it must be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from nemo_mm_align.core.errors import UserError, shorten

_SHOWN = 80
_SECRETS = ("key", "secret", "token_file", "password", "env_vars", "extra_body")


def describe_fault(error: ValidationError, values: Any, where: str = "") -> str:
    """Return the first fault of a validation as a sentence with the key, the value and what it must be.

    Args:
        values: what was validated; it tells keys from what else pydantic counts among the places of a fault.
        where: dotted name of the section that the values are.
    """
    fault = _first(error)
    cause = fault.get("ctx", {}).get("error")
    place = _place(fault["loc"], values, missing=fault["type"] == "missing")
    name = ".".join([*([where] if where else []), *place]) or "the configuration"
    if isinstance(cause, UserError):
        return str(cause)
    if fault["type"] == "missing":
        return f"{name} has no value. Give it on the command line: {name}=..."
    if fault["type"] == "extra_forbidden":
        return f"configuration has no key {name}. Remove it."
    if fault["type"] in ("value_error", "assertion_error"):
        text = str(cause) if cause is not None else fault["msg"]
        return text if text.startswith(name) else f"{name}: {text.rstrip('.')}."
    if fault["type"] == "union_tag_invalid":
        tag, known = fault["ctx"]["tag"], fault["ctx"]["expected_tags"].replace("'", "")
        return f"{name}.{fault['ctx']['discriminator'].strip(chr(39))}={tag!r}: choose from {known}."
    value = "..." if is_secret(name) else shown(fault["input"])
    decode = _from_environment(fault)
    return f"{name}={value}: {_wanted(fault)}{decode}."


def _first(error: ValidationError) -> Any:
    """The first fault; where a word or a section may stand and a section does, the first one within the section."""
    faults = error.errors()
    return next(
        (one for one in faults if one["type"] != "literal_error" or not isinstance(one["input"], Mapping)), faults[0]
    )


def _from_environment(fault: Any) -> str:
    """The remedy where a number came as a text, as every environment variable does."""
    number = str(fault["type"]).startswith(("int", "float", "bool")) and isinstance(fault["input"], str)
    return "; of an environment variable: ${oc.decode:${oc.env:NAME}}" if number else ""


def _place(parts: Sequence[int | str], values: Any, missing: bool) -> list[str]:
    """The keys and numbers among the parts of a fault's place, from the outside in."""
    found: list[str] = []
    inside: Any = values
    for part in parts:
        if (isinstance(inside, Mapping) and part in inside) or (
            isinstance(inside, list | tuple) and isinstance(part, int)
        ):
            inside = inside[part]  # type: ignore[index]
        elif not (missing and part == parts[-1]):
            continue
        found.append(str(part))
    return found


_WANTED = {
    "bool": "must be true or false, without quotes",
    "int": "must be a whole number, without point, exponent and quotes",
    "float": "must be a number, without quotes",
    "finite": "must be a finite number",
    "string": "must be a text; one that looks like a number or a word of YAML's takes quotes, in a shell 'KEY=\"1\"'",
    "list": "must be a list, [A,B]",
    "tuple": "must be a list, [A,B]",
    "dict": "is a section; give its keys one by one, KEY=VALUE",
    "model": "is a section; give its keys one by one, KEY=VALUE",
    "dataclass": "is a section; give its keys one by one, KEY=VALUE",
    "path": "must be a path",
    "none": "must be null",
}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""Bounds of a type, by pydantic's names, in words."""


def _wanted(fault: Any) -> str:
    kind, context = str(fault["type"]), fault.get("ctx", {})
    if kind == "literal_error":
        return f"choose from {str(context['expected']).replace(chr(39), '').replace(' or ', ', ')}"
    bound = next(
        (f"must be {words} {_bound(context[name])}" for name, words in BOUNDS.items() if name in context), None
    )
    if "pattern" in context:
        return f"must be written like {context['pattern']}"
    known = next((text for start, text in _WANTED.items() if kind.startswith(start)), None)
    return bound or known or str(fault["msg"]).rstrip(".").lower()


def _bound(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def is_secret(name: str) -> bool:
    """Whether a value of this setting may be a key, or hold one: it is not shown."""
    return any(word in name.lower() for word in _SECRETS)


def shown(value: Any) -> str:
    """Return a value as a message shows it: as it would be typed, and not at any length."""
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)
    return shorten(text, _SHOWN)
