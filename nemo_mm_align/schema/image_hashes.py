"""Hashes of image files, remembered in a file: a run that is gone on with need not read all images again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from nemo_mm_align.core.file_state import file_state, is_settled
from nemo_mm_align.schema.images import read_file

LINE = re.compile(r"([0-9a-f]{64}) (\d+ \d+) ([^\n]+)\n")


class ImageHashes:
    """SHA-256 of images by path. A remembered one holds as long as the file is in the same state.

    Args:
        path: the file of hashes; None remembers nothing from one run to the next.
        read_only: whether the file is left as it is.
    """

    def __init__(self, path: Path | None = None, read_only: bool = False) -> None:
        self.path, self.read_only = path, read_only
        self._known: dict[str, tuple[str, str]] = {}  # hash and state
        self._seen: set[str] = set()
        self._unsettled: set[str] = set()
        self._changed = False
        self.others: list[str] = []
        """Images of the file of hashes that are others now, of those asked for so far."""
        if path is not None and path.is_file():
            with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                matches = (LINE.fullmatch(line) for line in file)
                self._known = {match[3]: (match[1], match[2]) for match in matches if match}

    def of(self, image: Path, check: Callable[[bytes], object] = len) -> str:
        """Return the hash of an image's bytes; raise `UserError` where it cannot be read.

        Args:
            check: looks at the bytes of an image that is not remembered, and may raise `UserError`: what does not pass
                is not remembered. One file of hashes is made with one check.
        """
        name = os.fspath(image)
        known = self._known.get(name)
        if known is not None and (name in self._seen or known[1] == file_state(name)):
            self._seen.add(name)
            return known[0]
        state = file_state(name)
        if not is_settled(state) or "\n" in name:
            self._unsettled.add(name)
        data = read_file(image)
        value = hashlib.sha256(data).hexdigest()
        check(data)
        if known is not None and known[0] != value:
            self.others.append(name)
        self._known[name], self._changed = (value, state), True
        self._seen.add(name)
        return value

    def checked(self, image: Path) -> str | None:
        """Return the hash that an image had when the input was checked, whatever it is now; None for an unknown one."""
        known = self._known.get(os.fspath(image))
        return known[0] if known is not None else None

    @property
    def state(self) -> str:
        """State of the file of hashes: another one, and what was found with its hashes may not hold."""
        return file_state(self.path) if self.path is not None else ""

    def all_hold(self) -> bool:
        """Whether every image of the file of hashes is still in the state in which it was read."""
        return all(state == file_state(name) for name, (_, state) in self._known.items())

    def save(self) -> bool:
        """Write the hashes of the images that this run has seen, except those that changed a moment ago.

        Return whether the file now holds all of them.
        """
        if not self._changed:
            return True
        if self.path is None or self.read_only:
            return False
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for name in self._seen - self._unsettled:
                file.write(f"{' '.join(self._known[name])} {name}\n")
        temporary.replace(self.path)
        return not self._unsettled
