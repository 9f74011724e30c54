"""Hashes of image files, remembered beside the ledger: a run that is gone on with need not read all images again."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from pathlib import Path

from nemo_mm_align.images import read_file

SETTLED_S = 2.0
"""A file that was changed so shortly before it was read may be changed again without its time showing it."""

LINE = re.compile(r"([0-9a-f]{64} \d+ \d+) ([^\n]+)\n")


class ImageHashes:
    """SHA-256 of images by path. A remembered one holds as long as the file's size and time of change are the same.

    The time is the system's own (ctime), which no copying tool sets back.

    Args:
        path: the file of hashes; None remembers nothing from one run to the next.
        read_only: whether the file is left as it is.
    """

    def __init__(self, path: Path | None = None, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._known: dict[str, str] = {}
        self._seen: set[str] = set()
        self._changed = False
        if path is not None and path.is_file():
            with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                matches = (LINE.fullmatch(line) for line in file)
                self._known = {match[2]: match[1] for match in matches if match}

    def of(self, image: Path) -> str:
        """Return the hash of an image's bytes; raise `UserError` where it cannot be read."""
        name = os.fspath(image)
        known = self._known.get(name)
        if known is not None and (name in self._seen or known.endswith(_state(name))):
            self._seen.add(name)
            return known[:64]
        state = _state(name)
        value = hashlib.sha256(read_file(image)).hexdigest()
        self._known[name], self._changed = value + state, True
        self._seen.add(name)
        return value

    def save(self) -> None:
        """Write the hashes of the images that this run has seen, except those that changed a moment ago."""
        if self.path is None or self.read_only or not self._changed:
            return
        latest = (time.time() - SETTLED_S) * 1e9
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for name in self._seen:
                if int(self._known[name].rsplit(" ", 1)[1]) < latest and "\n" not in name:
                    file.write(f"{self._known[name]} {name}\n")
        temporary.replace(self.path)


def _state(name: str) -> str:
    """Return size and time of change of a file as a text; zeros where it is no regular file."""
    try:
        status = os.stat(name)
    except OSError:
        return " 0 0"
    return f" {status.st_size} {status.st_ctime_ns}" if stat.S_ISREG(status.st_mode) else " 0 0"
