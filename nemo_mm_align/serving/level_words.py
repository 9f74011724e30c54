"""Attribute values said in words: those that a level's rubric text begins with."""

from __future__ import annotations

import re
from typing import Any

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.schema.attribute import Attribute
from nemo_mm_align.serving.protocol import kind_of

SHOWN_WORDS = 3
"""A beginning of so many words is told as it is, of a longer one the first word."""


def level_words(attribute: Attribute) -> dict[str, float]:
    """Return the words that one level's text alone begins with: up to a comma or semicolon, or its first word; lower case."""
    found: dict[str, set[float]] = {}
    for level, text in attribute.levels.items():
        for words in _beginnings(text):
            found.setdefault(words, set()).add(level)
    return {words: levels.pop() for words, levels in found.items() if words and len(levels) == 1}


def _beginnings(text: str) -> tuple[str, str]:
    """Up to the first comma or semicolon; the first word."""
    head = _plain(re.split(r"[,;]", text, maxsplit=1)[0])
    return head, head.split(" ")[0]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def sayable(attribute: Attribute) -> dict[float, str]:
    """Return a word, or a few, for each level that can be asked for so."""
    words, said = level_words(attribute), dict[float, str]()
    for level, text in attribute.levels.items():
        head, first = _beginnings(text)
        liked = (head, first) if len(head.split(" ")) <= SHOWN_WORDS else (first, head)
        option = next((option for option in liked if words.get(option) == level), None)
        if option is not None:
            said[level] = option
    return said


def value_of(attribute: Attribute, given: Any) -> float:
    """Return a value that is asked for, given as a number or in a level's words.

    Raises:
        UserError: no such value; the message lists what can be asked.
    """
    if isinstance(given, str):
        level = level_words(attribute).get(_plain(given))
        if level is None:
            raise UserError(f"{attribute.name}={shorten(given, 40)!r} says no level, or several. {_can(attribute)}")
        given = level
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise UserError(f"{attribute.name} is {kind_of(given)}. {_can(attribute)}")
    try:
        return attribute.check(given)
    except UserError as error:
        raise UserError(f"{error} {_can(attribute)}") from None


def _can(attribute: Attribute) -> str:
    numbers = f"{'whole ' if attribute.integer else ''}numbers from {attribute.minimum:g} to {attribute.maximum:g}"
    words = ", ".join(f"{word!r} ({level:g})" for level, word in sayable(attribute).items())
    return f"{attribute.name} takes {numbers}{f', or words: {words}' if words else ''}."
