"""Faults of the files to label: collected, so that one look shows all of them, and raised together."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.schema.records import Record

SHOWN_FAULTS = 10


class InputFaults:
    """What is wrong with lines of the input, in the order in which it was found."""

    def __init__(self) -> None:
        self._faults: list[str] = []

    def add(self, path: Path, line: int, problem: str) -> None:
        """Note what is wrong with a line."""
        self._faults.append(str(RecordError(path, line, problem)))

    def add_error(self, path: Path, line: int, error: UserError) -> None:
        """Note an error as a fault of a line; a `RecordError` names its own."""
        if isinstance(error, RecordError):
            self._faults.append(str(error))
        else:
            self.add(path, line, str(error))

    def refuse(self, path: Path, kind: type[Record]) -> NoReturn:
        """Raise `UserError` for a file without a single readable line: it is probably another file."""
        raise UserError(
            f"{path}: no line is a {kind.__name__} record; is it the right file? The first: {self._faults[0]}"
        )

    def raise_if_any(self) -> None:
        """Raise `UserError` with the first faults and the number of all."""
        if not self._faults:
            return
        shown = "\n  ".join(self._faults[:SHOWN_FAULTS])
        more = len(self._faults) - SHOWN_FAULTS
        rest = f"\n  and {more} more" if more > 0 else ""
        raise UserError(
            f"{len(self._faults)} faults in the input; nothing was asked of the judge:\n  {shown}{rest}\n"
            "Correct or remove these lines, then start again."
        )
