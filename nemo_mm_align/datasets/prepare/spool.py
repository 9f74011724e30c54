"""Records on their way: written once to a file beside the output, then copied as far as they are drawn. Memory holds ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from nemo_mm_align.core.outputs import beside
from nemo_mm_align.datasets.prepare.products import Made


@dataclass(frozen=True)
class Entry:
    """What is remembered of a record that lies in the spool.

    Args:
        images: how many it has.
    """

    id: str
    origin: str
    task: str
    prompt_key: bytes
    images: int


class Spool:
    """A file of records beside `out` that is gone at the end, whatever happens.

    Args:
        out: whose folder exists.
    """

    def __init__(self, out: Path) -> None:
        self.path = beside(Path(os.path.realpath(out)), "spool")  # `out` has one owner; a killed run's is written over
        self.entries: list[Entry] = []
        self._file = self.path.open("w+b")

    def add(self, made: Made) -> None:
        """Keep a record."""
        line = made.record.model_dump_json(exclude_defaults=True)
        self._file.write(line.encode() + b"\n")
        key = bytes.fromhex(made.prompt_key)
        self.entries.append(Entry(made.id, made.origin, made.task, key, len(made.images)))

    def lines(self, wanted: Callable[[Entry], bool]) -> Iterator[tuple[Entry, str]]:
        """Yield the wanted records' entries and lines, in order."""
        self._file.flush()
        self._file.seek(0)
        for entry, line in zip(self.entries, self._file, strict=True):
            if wanted(entry):
                yield entry, line.decode().rstrip("\n")
        self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


def images_of(record: dict[str, Any]) -> list[str]:
    """Return the image paths of a line: of a record, or of an annotation's prompt."""
    images: list[str] = record.get("prompt", record).get("images", [])
    return images
