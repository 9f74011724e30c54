"""Files that are there complete or not at all: written beside their place, flushed to disk, renamed into it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from nemo_mm_align.core.outputs import beside, file_to_write


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """Open a new text file (UTF-8) that takes the place of `path`, whose folder is made, at the end of the block.

    An exception in the block leaves `path` as it was. Processes of one machine that write the same path at once do not
    mix: the last one's file stays. Where `path` is a link, the file behind it is replaced.

    Raises:
        UserError: a folder, device, FIFO or socket stands there, or the folder cannot be made or written to.
    """
    with _temporary_of(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _temporary_of(path: str | Path) -> Iterator[Path]:
    """Yield a path beside another one, which what was written there then becomes."""
    path = file_to_write(path)
    temporary = beside(path, f"{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file of bytes."""
    with _temporary_of(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: str | Path, text: str) -> None:
    """Write a whole file."""
    with replacing(path) as file:
        file.write(text)


def write_lines(path: str | Path, lines: Iterable[str]) -> int:
    """Write lines, each gets its newline, and return their number."""
    count = 0
    with replacing(path) as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def write_json(path: str | Path, value: Any, indent: int = 2, ensure_ascii: bool = True) -> None:
    """Write a value as indented JSON."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=ensure_ascii) + "\n")
