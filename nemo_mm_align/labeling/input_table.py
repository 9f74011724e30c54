"""Where the prompts to label and their candidates lie in their files, with their content keys."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import UserError

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Of a line in its file: byte offset, and number from 1."""

    offset: int
    line: int


class InputTable:
    """One row per prompt to label, in file order: content key and two places. No texts: some 120 bytes per prompt."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._numbers = array("q")

    def add(self, key: str, prompt: Place, candidates: Place) -> None:
        """Add a row."""
        self.keys.append(key)
        self._numbers.extend((*prompt, *candidates))

    def places(self, index: int) -> tuple[Place, Place]:
        """Return where the prompt and its candidates of a row lie."""
        numbers = self._numbers[4 * index : 4 * index + 4]
        return Place(numbers[0], numbers[1]), Place(numbers[2], numbers[3])

    def write(self, path: Path, conditions: Mapping[str, Any]) -> None:
        """Write the table with the conditions under which it holds.

        It spares time, nothing else depends on it: where it cannot be written, that is said and the run goes on.
        """
        rows = (f"{key} {' '.join(map(str, sum(self.places(index), ())))}" for index, key in enumerate(self.keys))
        head = json.dumps({"rows": len(self.keys), **conditions})
        try:
            write_lines(path, (head, *rows))
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("%s cannot be written (%s): the next run checks its input again", path, reason)

    @classmethod
    def read(cls, path: Path, conditions: Mapping[str, Any]) -> InputTable | None:
        """Return the table that `write` wrote under the same conditions; None where there is none, or half of one."""
        table = cls()
        try:
            with path.open(encoding="ascii") as file:
                head = json.loads(file.readline())
                if head != {"rows": head["rows"], **conditions}:
                    return None
                for line in file:
                    key, *numbers = line.split()
                    table.keys.append(key)
                    table._numbers.extend(map(int, numbers))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        whole = len(table.keys) == head["rows"] and len(table._numbers) == 4 * head["rows"]
        return table if whole else None
