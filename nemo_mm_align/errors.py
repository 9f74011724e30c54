"""The exception that a user can cause: every message says what is wrong, where, and the remedy."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """Bad input or configuration. Entry points print the message alone, without a traceback, and exit with 2."""


class RecordError(UserError):
    """A bad line in a data file: the message starts with ``file:line``."""

    def __init__(self, path: str | Path, line: int, problem: str, remedy: str = "") -> None:
        self.path, self.line, self.problem, self.remedy = Path(path), line, problem, remedy
        super().__init__(f"{path}:{line}: {problem}" + (f" Remedy: {remedy}" if remedy else ""))
