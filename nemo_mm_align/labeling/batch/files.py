"""Numbered files of limited size that appear under their names only when all of them are complete."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nemo_mm_align.core.errors import UserError


@dataclass
class _Part:
    """A file being written."""

    temporary: Path
    file: IO[bytes]
    sha256: Any
    lines: int = 0
    size: int = 0


class NumberedFiles:
    """Writes lines to ``name.jsonl``, or to ``name-00001.jsonl``, ``name-00002.jsonl``, ... where they do not fit in one.

    Args:
        path: the name.
        max_bytes, max_lines: limits of a file.
    """

    def __init__(self, path: Path, max_bytes: int, max_lines: int) -> None:
        self.path, self.max_bytes, self.max_lines = path, max_bytes, max_lines
        self._parts: list[_Part] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        existing = [path, *path.parent.glob(f"{path.stem}-[0-9][0-9][0-9][0-9][0-9].jsonl")]
        if found := next((each for each in existing if each.exists() or each.is_symlink()), None):
            raise UserError(
                f"{found} is there already: requests that were submitted once would be paid twice. Read its replies "
                "first (batch.read=...), and give batch.write another name for those that are still missing."
            )

    def __enter__(self) -> NumberedFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        for part in self._parts:
            part.file.close()
            part.temporary.unlink(missing_ok=True)

    def write(self, line: bytes) -> None:
        """Write one line, which must fit into a file."""
        if len(line) > self.max_bytes:
            raise UserError(
                f"a request takes {len(line):,} bytes, more than batch.max_file_mb allows ({self.max_bytes:,}). Raise "
                "it if the service takes larger files, or make the images smaller."
            )
        last = self._parts[-1] if self._parts else None
        if last is None or last.lines >= self.max_lines or last.size + len(line) > self.max_bytes:
            last = self._open()
        last.file.write(line)
        last.sha256.update(line)
        last.lines += 1
        last.size += len(line)

    def finish(self) -> list[dict[str, Any]]:
        """Flush the files to disk, give them their names, and return name, requests, bytes and hash of each."""
        described = []
        for part, path in zip(self._parts, self._names(), strict=True):
            part.file.flush()
            os.fsync(part.file.fileno())
            part.file.close()
            values = {"requests": part.lines, "bytes": part.size, "sha256": part.sha256.hexdigest()}
            described.append({"file": path.name, **values})
        for part, path in zip(self._parts, self._names(), strict=True):
            os.replace(part.temporary, path)
        self._parts = []
        return described

    def _names(self) -> list[Path]:
        if len(self._parts) == 1:
            return [self.path]
        numbers = range(1, len(self._parts) + 1)
        return [self.path.with_name(f"{self.path.stem}-{number:05d}.jsonl") for number in numbers]

    def _open(self) -> _Part:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}-{len(self._parts)}.tmp")
        self._parts.append(_Part(temporary, temporary.open("wb"), hashlib.sha256()))
        return self._parts[-1]
