"""Objects that stand in a text: JSON, and what models write for it (see `relaxed`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from nemo_mm_align.labeling.reply.claims import UnparsableError
from nemo_mm_align.labeling.reply.relaxed import BLANK, NotReadableError, Pairs, read_relaxed
from nemo_mm_align.schema.attribute import spelling

__all__ = ["Found", "Pairs", "as_dict", "find_objects", "leaves"]

MAY_BEGIN = re.compile(r"[\"'“}\w]")
"""What follows the brace of an object, blanks and comments aside."""

THOUGHTS = frozenset(
    {"think", "thinking", "thought", "thoughts", "reasoning", "analysis", "scratchpad", "draft", "drafts"}
)
"""Keys under which a model thinks: ratings below them are drafts."""

UNITS_PER_CHARACTER, UNITS_AT_LEAST = 100, 500_000
RELAXED_COST, NESTING_COST, PLACE_COST = 10, 50_000, 1 / 16


class Found(NamedTuple):
    """An outermost object and where it stands."""

    start: int
    end: int
    value: Pairs


def find_objects(text: str) -> list[Found]:
    """Return the outermost objects of a text, in order; what only looks like one is passed over.

    Raises:
        UnparsableError: so much only looks like one that reading on would take time out of proportion to the text.
    """
    finder, found = _Finder(text), list[Found]()
    position = text.find("{")
    while position >= 0:
        item = finder.object_at(position)
        if item is not None:
            found.append(item)
        position = text.find("{", item.end if item else position + 1)
    return found


def as_dict(value: Any) -> Any:
    """Return `Pairs` at any depth as dictionaries with keys in lower case.

    Raises:
        UnparsableError: a key stands twice, which leaves open which value is meant, or objects are nested without end.
    """
    try:
        return _as_dict(value)
    except RecursionError:
        raise UnparsableError("objects are nested too deeply") from None


def _as_dict(value: Any) -> Any:
    if isinstance(value, Pairs):
        result = {key.strip().lower(): _as_dict(item) for key, item in value}
        if len(result) != len(value):
            raise UnparsableError(f"a key stands twice among {[key for key, _ in value]}")
        return result
    return [_as_dict(item) for item in value] if isinstance(value, list) else value


class _Finder:
    """Reads objects of one text, and counts what attempts that fail cost, in units of about 10 ns."""

    def __init__(self, text: str) -> None:
        self.text = text
        # Raw line breaks inside strings are forbidden by JSON and understood by everybody.
        self._strict = json.JSONDecoder(object_pairs_hook=Pairs, strict=False)
        self._units = UNITS_PER_CHARACTER * len(text) + UNITS_AT_LEAST

    def object_at(self, start: int) -> Found | None:
        """Return the object that begins at a brace, if one does."""
        blank = BLANK.match(self.text, start + 1)
        self._spend(PLACE_COST * start + (blank.end() - start if blank else 0))
        if blank is None or not MAY_BEGIN.match(self.text, blank.end()):
            return None
        return self._strict_object(start) or self._relaxed_object(start, False) or self._relaxed_object(start, True)

    def _strict_object(self, start: int) -> Found | None:
        try:
            value, end = self._strict.raw_decode(self.text, start)
        except json.JSONDecodeError as error:
            self._spend(error.pos - start)
            return None
        except (ValueError, RecursionError):  # a number of absurd length, nesting without end
            self._spend(NESTING_COST)
            return None
        return Found(start, end, value)

    def _relaxed_object(self, start: int, loose_quotes: bool) -> Found | None:
        try:
            value, end = read_relaxed(self.text, start, loose_quotes)
        except NotReadableError as error:
            self._spend(RELAXED_COST * (error.position - start))
            return None
        return Found(start, end, value)

    def _spend(self, units: float) -> None:
        self._units -= int(units)
        if self._units < 0:
            raise UnparsableError("too much of the reply begins like an object and is none")


def leaves(value: Pairs) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) in the order of the text; an object under a key is announced by (key, its `Pairs`) first.

    What stands below a key of `THOUGHTS` is left out.
    """
    for key, item in value:
        if isinstance(item, list) and spelling(key) in THOUGHTS:
            continue
        yield key, item
        for inner in item if isinstance(item, list) and not isinstance(item, Pairs) else [item]:
            if isinstance(inner, Pairs):
                yield from leaves(inner)
