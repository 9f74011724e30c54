"""Objects that stand in a text: JSON, and what models write for it (Python quotes, comments, trailing commas)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from nemo_mm_align.labeling.reply.claims import UnparsableError

TOKEN = re.compile(
    r'"(?:\\.|[^"\\\n])*"' r"|'(?:\\.|[^'\\\n])*'" r"|(?P<comment>//[^\n]*|\#[^\n]*|/\*.*?\*/)" r"|(?P<brace>[{}])",
    re.DOTALL,
)
MAX_DEPTH = 8
CONSTANTS = {"true": True, "false": False, "null": None, "nan": float("nan"), "infinity": float("inf")}


class Pairs(list[tuple[str, Any]]):
    """An object with its keys as they came: a key given twice is still seen."""


class Found(NamedTuple):
    """An outermost object and where it stands."""

    start: int
    end: int
    value: Pairs


def find_objects(text: str) -> list[Found]:
    """Return the outermost objects of a text, in order; what only looks like one is passed over."""
    strict = json.JSONDecoder(object_pairs_hook=Pairs)
    ends: dict[int, int] | None = None
    found, position = [], text.find("{")
    while position >= 0:
        item = _strict_object(strict, text, position)
        if item is None:
            ends = _matching_braces(text) if ends is None else ends
            item = _relaxed_object(text, position, ends.get(position))
        if item is not None:
            found.append(item)
        position = text.find("{", item.end if item else position + 1)
    return found


def as_dict(value: Any) -> Any:
    """Return `Pairs` at any depth as dictionaries with keys in lower case.

    Raises:
        UnparsableError: a key stands twice, which leaves open which value is meant.
    """
    if isinstance(value, Pairs):
        result = {key.strip().lower(): as_dict(item) for key, item in value}
        if len(result) != len(value):
            raise UnparsableError(f"a key stands twice among {[key for key, _ in value]}")
        return result
    return [as_dict(item) for item in value] if isinstance(value, list) else value


def _strict_object(decoder: json.JSONDecoder, text: str, start: int) -> Found | None:
    try:
        value, end = decoder.raw_decode(text, start)
    except (ValueError, RecursionError):  # not JSON from here, or a number of absurd length
        return None
    return Found(start, end, value)


def _relaxed_object(text: str, start: int, end: int | None) -> Found | None:
    """Read the object between two braces by Python's grammar, without its comments; nothing is evaluated."""
    if end is None:
        return None
    source = TOKEN.sub(lambda match: "" if match["comment"] else match[0], text[start:end])
    try:
        value = _value(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Found(start, end, value) if isinstance(value, Pairs) else None


def _matching_braces(text: str) -> dict[int, int]:
    """Return from the position of each opening brace to that behind its closing one, strings and comments aside.

    Objects that hold others more than `MAX_DEPTH` deep are left out: no rating is, and each level costs a reading.
    """
    ends: dict[int, int] = {}
    open_braces: list[tuple[int, int]] = []
    height = 0  # of what was closed last inside the innermost open brace
    for match in TOKEN.finditer(text):
        if match["brace"] == "{":
            open_braces.append((match.start(), height))
            height = 0
        elif match["brace"] and open_braces:
            start, height_before = open_braces.pop()
            if height < MAX_DEPTH:
                ends[start] = match.end()
            height = max(height + 1, height_before)
    return ends


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Dict(keys=keys, values=values):
            return Pairs((_key(key), _value(value)) for key, value in zip(keys, values, strict=True))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Constant(value=value) if value is None or isinstance(value, str | bool | int | float):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)) if type(value) in (int, float):
            return -value  # type: ignore[operator]
        case ast.Name(id=name) if name.lower() in CONSTANTS:
            return CONSTANTS[name.lower()]
    raise ValueError("not a literal")


def _key(node: ast.expr | None) -> str:
    match node:
        case ast.Constant(value=str() | int() as value):
            return str(value)
        case ast.Name(id=name):
            return name
    raise ValueError("not a key")


def leaves(value: Pairs) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) in the order of the text; an object under a key is announced by (key, its `Pairs`) first."""
    for key, item in value:
        yield key, item
        for inner in item if isinstance(item, list) and not isinstance(item, Pairs) else [item]:
            if isinstance(inner, Pairs):
                yield from leaves(inner)
