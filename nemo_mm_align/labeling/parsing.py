"""A judge's reply as text -> ratings. Tolerant about packaging, strict about content: no value is ever made up."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.reply.claims import (
    Claims,
    UnparsableError,
    attribute_spellings,
    candidate_number,
    spelling,
)
from nemo_mm_align.labeling.reply.objects import as_dict, find_objects
from nemo_mm_align.labeling.reply.sections import read_sections
from nemo_mm_align.labeling.reply.thinking import without_thinking
from nemo_mm_align.labeling.rubric import CANDIDATE_KEY, RATINGS_KEY, REASONING_KEY, REFERENCE_KEY, SCORES_KEY
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema

MAX_TEXT = 400_000
"""Characters of a reply with thinking; 65,536 tokens are fewer."""

MAX_FREE_TEXT = 100_000
"""Characters of an answer in a layout of its own."""

LARGEST = 1e15


@dataclass(frozen=True)
class ParsedReply:
    """Ratings and reasoning per candidate, in the order in which the candidates were numbered (1, 2, ...)."""

    ratings: tuple[dict[str, float], ...]
    reasoning: tuple[str, ...]
    reference_answer: str | None


def parse_reply(text: str, schema: AttributeSchema, count: int, want_reference: bool = False) -> ParsedReply:
    """Return what a reply says of `count` candidates.

    What the model thought before it answered is no part of it (`without_thinking`). Read as the object that was asked for,
    in JSON or in what models write for it (code fences, text around it, `read_relaxed`); without one, as ratings below each
    candidate's name (see `read_sections`), then without reasoning. In names, case, blanks, hyphens and underscores make no
    difference.

    Raises:
        CallFailure: ``unparsable`` where a candidate, score or wanted reference answer is missing, contradicted or not
            a number; ``out_of_range`` where a number is not one of its attribute.
    """
    try:
        answer = _answer(text)
        reply = _find_reply(answer)
        if reply is not None:
            return _read(reply, schema, count, want_reference)
        if want_reference:
            raise UnparsableError(
                f"no complete JSON object with {RATINGS_KEY!r} in the reply, hence no reference answer"
            )
        if len(answer) > MAX_FREE_TEXT:
            raise UnparsableError(f"no object with {RATINGS_KEY!r} in {len(answer):,} characters")
        ratings = read_sections(answer, schema).settle(schema, count)
        return ParsedReply(tuple(ratings), ("",) * count, None)
    except UnparsableError as error:
        raise CallFailure("unparsable", str(error), raw=text) from None
    except UserError as error:
        raise CallFailure("out_of_range", str(error), raw=text) from None


def _answer(text: str) -> str:
    """Return what the model answered, without its thinking; JSON that was packed into a JSON string is unpacked."""
    if len(text) > MAX_TEXT:
        raise UnparsableError(f"{len(text):,} characters; at most {MAX_TEXT:,} are read, and no judgement has as many")
    answer = without_thinking(text)
    if text.strip() and not answer.strip():
        raise UnparsableError("the reply is thinking and holds no judgement")
    if answer.lstrip().startswith('"'):
        with suppress(ValueError, RecursionError):
            inner = json.loads(answer, strict=False)
            answer = inner if isinstance(inner, str) else answer
    return answer


def _find_reply(text: str) -> dict[str, Any] | None:
    """Return the one object with a list of ratings in the text; None where there is none."""
    found: list[dict[str, Any]] = []
    for item in find_objects(text):
        if any(key.strip().lower() == RATINGS_KEY and isinstance(value, list) for key, value in item.value):
            value = as_dict(item.value)
            if isinstance(value[RATINGS_KEY], list) and value not in found:
                found.append(value)
    if len(found) > 1:
        raise UnparsableError(f"{len(found)} different JSON objects with {RATINGS_KEY!r} in the reply")
    return found[0] if found else None


def _read(reply: dict[str, Any], schema: AttributeSchema, count: int, want_reference: bool) -> ParsedReply:
    entries = reply[RATINGS_KEY]
    if not all(isinstance(entry, dict) for entry in entries):
        raise UnparsableError(f"{RATINGS_KEY!r} is not a list of objects")
    claims, reasoning = Claims(), dict[int, str]()
    for entry in entries:
        number = _number_of(entry.get(CANDIDATE_KEY))
        if number in reasoning:
            raise UnparsableError(f"candidate {number} is rated twice")
        reasoning[number] = _text(entry.get(REASONING_KEY))
        _claim(claims, number, entry, schema)
    ratings = claims.settle(schema, count)
    reference = _reference(reply) if want_reference else None
    return ParsedReply(tuple(ratings), tuple(reasoning[number] for number in range(1, count + 1)), reference)


def _number_of(value: Any) -> int:
    pattern = r"(?:(?:candidate|answer|response)[\s_#]*)?([0-9]{1,6}|[A-Za-z])"
    match = re.fullmatch(pattern, str(value).strip(), re.IGNORECASE)
    if match is None:
        raise UnparsableError(f"{CANDIDATE_KEY} {value!r} is no candidate's number")
    return candidate_number(match[1])


def _claim(claims: Claims, number: int, entry: dict[str, Any], schema: AttributeSchema) -> None:
    scores = entry.get(SCORES_KEY, entry)
    if not isinstance(scores, dict):
        raise UnparsableError(f"{SCORES_KEY!r} is not an object")
    exact, names = {name.lower(): name for name in schema.names}, attribute_spellings(schema)
    claims.values[number] = {}
    for key, value in scores.items():
        if name := exact.get(key) or names.get(spelling(key)):
            claims.add(number, name, _number(value))


def _number(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,20})?\s*", value):
        value = float(value)
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    return value if plain else None


def _text(value: Any) -> str:
    # A lone surrogate escape is valid JSON and no valid text: no file could hold it.
    return value.strip().encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _reference(reply: dict[str, Any]) -> str:
    text = _text(reply.get(REFERENCE_KEY))
    if not text:
        raise UnparsableError(f"no {REFERENCE_KEY!r} in the reply, though a reference answer was asked for")
    return text
