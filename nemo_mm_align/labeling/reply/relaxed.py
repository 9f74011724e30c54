"""What models write for JSON and any reader understands, read in one pass: a small grammar, nothing is evaluated.

Beyond JSON: raw line breaks and odd escapes in strings, single, triple and typographic quotes, quotes left alone inside a
string, keys without quotes, comments, trailing commas and Python's constants. What is cut off is no object.
"""

from __future__ import annotations

import re
from typing import Any

MAX_DEPTH = 16
"""Objects and lists inside each other; no judgement has more than five."""

CONSTANTS = {"true": True, "false": False, "null": None, "none": None, "nan": float("nan"), "infinity": float("inf")}
BLANK = re.compile(r"(?:\s|//[^\n]{0,2000}|\#[^\n]{0,2000}|/\*(?:[^*]|\*(?!/)){0,2000}\*/)*")
"""What stands between tokens, comments of bounded length included."""

QUOTE = re.compile(r"\"\"\"|'''|[\"'“]")
CLOSING = {"“": "”"}
NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?(?![\w.%/])")
NAME = re.compile(r"[^\W\d][\w -]{0,60}")
CONSTANT = re.compile(r"-?[A-Za-z]+(?!\w)")
ENDS = re.compile(
    r"\s*(?:,?\s*[}\]]|,\s*(?:[\"'“][^\"'”\n]{1,60}[\"'”]|[^\W\d][\w -]{0,60})\s*[:：]|,?\s*(?://|\#|/\*|\Z))"
)
"""What may follow the last quote of a value: its object goes on with a key or ends."""

ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\s\S])")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{mark: mark for mark in "\"'\\/“”"}}


class Pairs(list[tuple[str, Any]]):
    """An object with its keys as they came: a key given twice is still seen."""


class NotReadableError(ValueError):
    """What stands there is no object; `position` is how far it was read."""

    def __init__(self, position: int) -> None:
        super().__init__(f"no object up to {position}")
        self.position = position


def read_relaxed(text: str, start: int, loose_quotes: bool) -> tuple[Pairs, int]:
    """Return the object that begins at a brace, and where it ends.

    Args:
        loose_quotes: a string ends at the first quote behind which its object goes on or ends, so that quotes may stand
            inside it; otherwise at the first quote.

    Raises:
        NotReadableError: there is none in this grammar.
    """
    reader = _Reader(text, loose_quotes)
    reader.position = start
    return reader.read_object(1), reader.position


class _Reader:
    """Reads from `position` on."""

    def __init__(self, text: str, loose_quotes: bool) -> None:
        self.text, self.loose_quotes, self.position = text, loose_quotes, 0

    def read_object(self, depth: int) -> Pairs:
        pairs = Pairs()
        self.position += 1
        while not self._closes("}", pairs):
            key = self._key()
            self._skip()
            if not self._takes(":："):
                raise NotReadableError(self.position)
            pairs.append((key, self._value(depth)))
        return pairs

    def _list(self, depth: int) -> list[Any]:
        values: list[Any] = []
        self.position += 1
        while not self._closes("]", values):
            values.append(self._value(depth))
        return values

    def _closes(self, bracket: str, so_far: list[Any]) -> bool:
        """Take what stands between two members; whether it closes the bracket."""
        self._skip()
        if so_far and self._takes(",，;"):
            self._skip()
        elif so_far and self.position < len(self.text) and self.text[self.position] != bracket:
            raise NotReadableError(self.position)
        return self._takes(bracket)

    def _key(self) -> str:
        if QUOTE.match(self.text, self.position):
            return self._string(is_key=True)
        found = NUMBER.match(self.text, self.position) or NAME.match(self.text, self.position)
        if found is None:
            raise NotReadableError(self.position)
        self.position = found.end()
        return found[0].strip()

    def _value(self, depth: int) -> Any:
        self._skip()
        head = self.text[self.position : self.position + 1]
        if head in ("{", "["):
            if depth >= MAX_DEPTH:
                raise NotReadableError(self.position)
            return self.read_object(depth + 1) if head == "{" else self._list(depth + 1)
        if QUOTE.match(self.text, self.position):
            return self._string()
        if number := NUMBER.match(self.text, self.position):
            self.position = number.end()
            return float(number[0]) if re.search(r"[.eE]", number[0]) else int(number[0])
        word = CONSTANT.match(self.text, self.position)
        if word is None or word[0].lower().lstrip("-") not in CONSTANTS:
            raise NotReadableError(self.position)
        self.position = word.end()
        return CONSTANTS[word[0].lower().lstrip("-")]

    def _string(self, is_key: bool = False) -> str:
        opening = QUOTE.match(self.text, self.position)
        assert opening is not None
        quote = CLOSING.get(opening[0], opening[0])
        start = position = opening.end()
        while (end := self.text.find(quote, position)) >= 0:
            position = end + len(quote)
            if self._is_last(start, end, position, loose=self.loose_quotes and not is_key):
                self.position = position
                plain = ESCAPE.sub(_unescaped, self.text[start:end])
                return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins escaped pairs
        raise NotReadableError(len(self.text))

    def _is_last(self, start: int, end: int, behind: int, loose: bool) -> bool:
        backslashes = len(tail := self.text[max(start, end - 64) : end]) - len(tail.rstrip("\\"))
        return backslashes % 2 == 0 and (not loose or ENDS.match(self.text, behind) is not None)

    def _takes(self, marks: str) -> bool:
        taken = self.position < len(self.text) and self.text[self.position] in marks
        self.position += taken
        return taken

    def _skip(self) -> None:
        blank = BLANK.match(self.text, self.position)
        assert blank is not None
        self.position = blank.end()


def _unescaped(match: re.Match[str]) -> str:
    escaped = match[1]
    if len(escaped) > 1:
        return chr(int(escaped[1:], 16))
    return ESCAPES.get(escaped, match[0])
