"""Results, appended case by case: a figure, a reason to skip, or an error. A killed step keeps what it has written."""

from __future__ import annotations

import json
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "results.jsonl"
_ERROR_LENGTH = 300


class Skipped(Exception):
    """A case that cannot be measured here; the message says why."""


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add one line to a file of results."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(line)) + "\n")


def read(path: Path, run: str) -> list[dict[str, Any]]:
    """Return the lines of one run; a line that a killed process left torn is left out."""
    return [line for line in read_all(path) if line.get("run") == run]


def read_all(path: Path) -> list[dict[str, Any]]:
    """Return the lines of all runs, likewise; none where there is no file."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


@dataclass
class Recorder:
    """Writes the cases of one step.

    Args:
        path: file of results.
        facts: what every line carries: card, versions, date, command, step.
        deadline: of the step, on the monotonic clock; a case is skipped where less is left than cases usually took.
    """

    path: Path
    facts: Mapping[str, Any]
    deadline: float = float("inf")
    _seconds: list[float] = field(default_factory=list, init=False)

    def write(self, name: str, **values: Any) -> None:
        """Append a case and print it."""
        append(self.path, {**self.facts, "name": name, **values})
        print(json.dumps({"name": name, **values}), flush=True)

    def case(self, name: str, measure: Callable[[], Mapping[str, Any]]) -> bool:
        """Measure a case and append its values, or why there are none; return whether there are."""
        left, usual = self.deadline - time.monotonic(), statistics.median(self._seconds or [0.0])
        if left < usual:
            self.write(name, skipped=f"{max(left, 0):.0f} s of the step were left, a case takes {usual:.0f} s")
            return False
        start = time.monotonic()
        try:
            values = measure()
        except Exception as error:
            self.failed(name, error)
            return False
        self._seconds.append(time.monotonic() - start)
        self.write(name, **values)
        return True

    def failed(self, name: str, error: Exception) -> None:
        """Append a case without figures: skipped, out of memory, or an error whose traceback goes to the log."""
        if isinstance(error, Skipped):
            self.write(name, skipped=str(error))
        elif type(error).__name__ == "OutOfMemoryError":
            self.write(name, error="out of memory")
        else:
            traceback.print_exception(error)
            self.write(name, error=f"{type(error).__name__}: {str(error)[:_ERROR_LENGTH]}")


@dataclass(frozen=True)
class Context:
    """What a step is given.

    Args:
        size: one of `options.SIZE_NAMES`.
        recorder: for its cases.
        out: the run's folder.
        seconds: that the step may take.
    """

    size: str
    recorder: Recorder
    out: Path
    seconds: float

    @property
    def toy(self) -> bool:
        """Whether figures mean nothing and everything is to be small."""
        return self.size == "toy"
