"""Records of a JSON list or a JSONL file, one after the other: memory holds one record, whatever the file's size.

What is wrong with one record becomes a `Problem` in its place. A list that breaks off or is no JSON cannot be read on.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.core.file_kinds import BOM, open_plain
from nemo_mm_align.datasets.faults import Problem

MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Images inside a record included."""

BLOCK = 1 << 20
BLANKS = " \t\r\n"

Numbered = tuple[int, Any]
"""Number of a line or of a list's item, from 1, with the value or the problem of reading it."""


class _Decoder:
    """JSON that notices keys which stand twice in an object: only the last one would count."""

    def __init__(self) -> None:
        self._doubled: list[str] = []
        self._json = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            self._doubled += [name for name in result if names.count(name) > 1]
        return result

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """Return the value that begins at `start`, or a `Problem` in its place, and where it ends."""
        self._doubled.clear()
        value, end = self._json.raw_decode(text, start)
        if self._doubled:
            names = shorten(", ".join(self._doubled))
            value = Problem("key_twice", f"{names} stands twice in an object.", "keep one of them.")
        return value, end


def json_lines(path: Path) -> Iterator[Numbered]:
    """Yield the lines of a JSONL file that are not blank."""
    decoder = _Decoder()
    with open_plain(path) as file:
        for number, line in _lines(path, file):
            if line is None:
                yield number, Problem("size", f"longer than {MAX_RECORD_BYTES:,} bytes.", "store its images as files.")
            elif text := line.removeprefix(BOM).strip():
                yield number, _parse(decoder, text)


def is_spread_object(path: Path) -> bool:
    """Whether a file begins with an object that goes on in further lines: then none of them is a record."""
    with open_plain(path) as file:
        starts = (file.readline(BLOCK).removeprefix(BOM).strip() for _ in range(BLOCK))
        return next(filter(None, starts), b"") == b"{"


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines with their numbers; None for one that is too long, which is passed over block by block."""
    number = 0
    try:
        while line := file.readline(MAX_RECORD_BYTES + 1):
            number += 1
            too_long = len(line) > MAX_RECORD_BYTES
            yield number, None if too_long else line
            while too_long and line and not line.endswith(b"\n"):
                line = file.readline(BLOCK)
    except (OSError, EOFError) as error:  # a gzip file that breaks off
        raise UserError(f"{path}: cannot be read beyond line {number} ({error}). Is it complete?") from None


def _parse(decoder: _Decoder, line: bytes) -> Any:
    try:
        text = line.decode()
        value, end = decoder.decode(text)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return value
    except UnicodeDecodeError as error:
        return Problem("encoding", f"not UTF-8 ({error}).", "save the file as UTF-8.")
    except RecursionError:
        return Problem("json", "nested too deeply.", "mend or remove the line.")
    except ValueError as error:
        return Problem("json", f"not a JSON object ({_reason(error)}).", "mend or remove the line.")


def _reason(error: ValueError) -> str:
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


class _Text:
    """A window on a file's text that moves forward."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decode = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.place, self.lines, self.complete = "", 0, 1, False

    def more(self, characters: int = BLOCK) -> None:
        """Read on, and forget what lies behind."""
        self.lines += self.text.count("\n", 0, self.place)
        data = self._file.read(characters)
        self.complete = not data
        self.text, self.place = self.text[self.place :] + self._decode.decode(data, self.complete), 0

    def peek(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in BLANKS:
                self.place += 1
            if self.place < len(self.text) or self.complete:
                return self.text[self.place : self.place + 1]
            self.more()

    @property
    def line(self) -> int:
        """Number of the present line."""
        return self.lines + self.text.count("\n", 0, self.place)


def json_items(path: Path) -> Iterator[Numbered]:
    """Yield the items of a JSON list.

    Raises:
        UserError: the file is no JSON list, or breaks off; the message names record and line.
    """
    number, text = 0, None
    try:
        with open_plain(path) as file:
            text = _Text(file)
            for number, value in enumerate(_items(text), start=1):
                yield number, value
    except (ValueError, OSError, EOFError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", None) or error
        where = f"record {number + 1}, line {text.line if text else 1}"
        raise UserError(
            f"{path}: not a JSON list ({where}: {reason}). Check the end of the file; is it complete?"
        ) from None


def _items(text: _Text) -> Iterator[Any]:
    decoder = _Decoder()
    if text.peek() != "[":
        raise ValueError("no [ at the start")
    text.place += 1
    following = text.peek()
    while following != "]":
        yield _item(decoder, text)
        following = text.peek()
        if following == ",":
            text.place += 1
            text.peek()
        elif following != "]":
            raise ValueError("a comma or ] is missing")
    text.place += 1
    if text.peek():
        raise ValueError("text behind the list")


def _item(decoder: _Decoder, text: _Text) -> Any:
    """Parse the next item; what is not there yet is read in ever larger blocks, so that no text is parsed often."""
    while True:
        size = len(text.text) - text.place
        try:
            value, end = decoder.decode(text.text, text.place)
            if end < len(text.text) or text.complete:
                text.place = end
                return value
        except json.JSONDecodeError:
            if text.complete or size > MAX_RECORD_BYTES:
                raise
        text.more(max(BLOCK, size))
