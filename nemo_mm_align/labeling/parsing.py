"""A judge's reply as text -> ratings. Tolerant about packaging, strict about content: no value is ever made up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.attributes import Attribute, AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.judge import JudgeFailure
from nemo_mm_align.labeling.rubric import CANDIDATE_KEY, RATINGS_KEY, REASONING_KEY, REFERENCE_KEY, SCORES_KEY


@dataclass(frozen=True)
class ParsedReply:
    """Ratings and reasoning per candidate, in the order in which the candidates were numbered (1, 2, ...)."""

    ratings: tuple[dict[str, float], ...]
    reasoning: tuple[str, ...]
    reference_answer: str | None


def parse_reply(text: str, schema: AttributeSchema, count: int, want_reference: bool = False) -> ParsedReply:
    """Return what a reply says of `count` candidates.

    Code fences, text around the JSON object, the case of keys, and numbers written as strings are accepted.

    Raises:
        JudgeFailure: ``unparsable`` where there is no single such object, or a candidate, score or wanted reference
            answer is missing, doubled or not a number; ``out_of_range`` where a number is not one of its attribute.
    """
    try:
        return _read(_find_object(text), schema, count, want_reference)
    except _Unparsable as error:
        raise JudgeFailure("unparsable", str(error), raw=text) from None
    except UserError as error:
        raise JudgeFailure("out_of_range", str(error), raw=text) from None


class _Unparsable(Exception):
    """The reply is not what was asked for."""


def _find_object(text: str) -> dict[str, Any]:
    """Return the one JSON object with ratings in the text."""
    found: list[dict[str, Any]] = []
    for value in _json_objects(text):
        if RATINGS_KEY in value and value not in found:
            found.append(value)
    if len(found) != 1:
        problem = f"{len(found)} different JSON objects" if found else "no complete JSON object"
        raise _Unparsable(f"{problem} with {RATINGS_KEY!r} in the reply")
    return found[0]


def _json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the outermost JSON objects that stand in a text."""
    decoder = json.JSONDecoder(object_pairs_hook=_without_doubles)
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):  # not JSON from here, or a number of absurd length
            end = position + 1
        else:
            yield value
        position = text.find("{", end)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with its keys in lower case; a key given twice leaves open which value is meant."""
    result = {key.strip().lower(): value for key, value in pairs}
    if len(result) != len(pairs):
        raise _Unparsable(f"a key stands twice among {[key for key, _ in pairs]}")
    return result


def _read(reply: dict[str, Any], schema: AttributeSchema, count: int, want_reference: bool) -> ParsedReply:
    entries = reply[RATINGS_KEY]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _Unparsable(f"{RATINGS_KEY!r} is not a list of objects")
    by_number: dict[int, dict[str, Any]] = {}
    for entry in entries:
        number = _candidate_number(entry.get(CANDIDATE_KEY), count)
        if number in by_number:
            raise _Unparsable(f"candidate {number} is rated twice")
        by_number[number] = entry
    missing = [number for number in range(1, count + 1) if number not in by_number]
    if missing:
        raise _Unparsable(f"no rating of candidate {', '.join(map(str, missing))} of {count}")
    ordered = [by_number[number] for number in range(1, count + 1)]
    return ParsedReply(
        ratings=tuple(_scores(entry, schema) for entry in ordered),
        reasoning=tuple(_text(entry.get(REASONING_KEY)) for entry in ordered),
        reference_answer=_reference(reply) if want_reference else None,
    )


def _candidate_number(value: Any, count: int) -> int:
    match = re.fullmatch(r"(?:(?:candidate|answer)\s*#?\s*)?(\d{1,6})", str(value).strip(), re.IGNORECASE)
    if match is None or not 1 <= int(match[1]) <= count:
        raise _Unparsable(f"{CANDIDATE_KEY} {value!r} is none of 1 to {count}")
    return int(match[1])


def _scores(entry: dict[str, Any], schema: AttributeSchema) -> dict[str, float]:
    scores = entry.get(SCORES_KEY, entry)
    if not isinstance(scores, dict):
        raise _Unparsable(f"{SCORES_KEY!r} is not an object")
    return {attribute.name: _score(scores, attribute) for attribute in schema.attributes}


def _score(scores: dict[str, Any], attribute: Attribute) -> float:
    value = scores.get(attribute.name.lower())
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Unparsable(f"{attribute.name} is {value!r}, not a number")
    return attribute.check(value)


def _text(value: Any) -> str:
    # A lone surrogate escape is valid JSON and no valid text: no file could hold it.
    return value.strip().encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _reference(reply: dict[str, Any]) -> str:
    text = _text(reply.get(REFERENCE_KEY))
    if not text:
        raise _Unparsable(f"no {REFERENCE_KEY!r} in the reply, though a reference answer was asked for")
    return text
