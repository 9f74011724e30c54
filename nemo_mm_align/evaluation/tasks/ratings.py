"""Numbers in a judge's words. A reply without the number asked for is a failed call, never a number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NoReturn

from nemo_mm_align.evaluation.judging import Read
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.llm.question import Answer

RATING = "rating"
DIFFERENT = "different"
"""How many different numbers stand where the rating was looked for."""

Which = Literal["first", "last", "only"]
"""Of several ratings in one reply: the first (FastChat's rule), the last, or none where they differ."""

_DOUBLE = re.compile(r"\[\[(\d+\.?\d*)\]\]", re.ASCII)
_SINGLE = re.compile(r"\[(\d+\.?\d*)\]", re.ASCII)
_NUMBER = re.compile(r"\d+\.?\d*", re.ASCII)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def bracketed(lowest: float, highest: float, which: Which = "first") -> Read:
    """Return what reads ``[[7]]``, or ``[7]`` in a reply that has no ``[[7]]``.

    Its values: `RATING` and `DIFFERENT`.
    """
    return partial(_read_bracketed, lowest=lowest, highest=highest, which=which)


def json_score(lowest: float, highest: float, key: str = "score") -> Read:
    """Return what reads ``{"score": 7}``, in a Markdown fence or not."""
    return partial(_read_json, lowest=lowest, highest=highest, key=key)


def first_word(lowest: float, highest: float) -> Read:
    """Return what reads a reply that begins with its number, as ``0.5``."""
    return partial(_read_first_word, lowest=lowest, highest=highest)


def pair_of_line(lowest: float, highest: float, names: tuple[str, str]) -> Read:
    """Return what reads two numbers that are all of the first line: ``8 7``, ``8, 7``."""
    return partial(_read_pair, lowest=lowest, highest=highest, names=names)


def unparsable(answer: Answer, why: str) -> NoReturn:
    """Raise the failure of a reply that cannot be read."""
    raise CallFailure("unparsable", why, answer.text, usage=answer.usage)


def _in_range(answer: Answer, value: float, lowest: float, highest: float) -> float:
    if not lowest <= value <= highest:
        unparsable(answer, f"{value:g} is not within {lowest:g} and {highest:g}")
    return value


def _read_bracketed(answer: Answer, lowest: float, highest: float, which: Which) -> Mapping[str, float]:
    found = _DOUBLE.findall(answer.text) or _SINGLE.findall(answer.text)
    values = [float(one) for one in found]
    if not values:
        unparsable(answer, "no rating in brackets, such as [[5]]")
    different = len(set(values))
    if which == "only" and different > 1:
        unparsable(answer, f"several ratings in brackets: {', '.join(found)}")
    value = _in_range(answer, values[-1 if which == "last" else 0], lowest, highest)
    return {RATING: value, DIFFERENT: float(different)}


def _read_json(answer: Answer, lowest: float, highest: float, key: str) -> Mapping[str, float]:
    fenced = _FENCE.search(answer.text)
    try:
        value: Any = json.loads(fenced[1] if fenced else answer.text)
    except (ValueError, RecursionError):
        unparsable(answer, "no JSON")
    number = value.get(key) if isinstance(value, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | float):
        unparsable(answer, f"no number {key} in the JSON object")
    return {RATING: _in_range(answer, float(number), lowest, highest)}


def _read_first_word(answer: Answer, lowest: float, highest: float) -> Mapping[str, float]:
    word = (answer.text.split() or [""])[0]
    if not _NUMBER.fullmatch(word):
        unparsable(answer, f"does not begin with a number from {lowest:g} to {highest:g}")
    return {RATING: _in_range(answer, float(word), lowest, highest)}


def _read_pair(answer: Answer, lowest: float, highest: float, names: tuple[str, str]) -> Mapping[str, float]:
    words = answer.text.partition("\n")[0].replace(",", " ").split()
    if len(words) != 2 or not all(map(_NUMBER.fullmatch, words)):
        unparsable(answer, "its first line is not two numbers")
    numbers = [_in_range(answer, float(word), lowest, highest) for word in words]
    return dict(zip(names, numbers, strict=True))
