"""The exception that a user can cause: every message says what is wrong, where, and the remedy."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Bad input or configuration. Entry points print the message alone, without a traceback, and exit with 2."""


class RecordError(UserError):
    """A bad line in a data file: the message starts with ``file:line``."""

    def __init__(self, path: str | Path, line: int, problem: str, remedy: str = "") -> None:
        self.path, self.line, self.problem, self.remedy = Path(path), line, problem, remedy
        stop = "" if problem.endswith((".", "!", "?")) else "."
        super().__init__(f"{path}:{line}: {problem}" + (f"{stop} Remedy: {remedy}" if remedy else ""))


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def shorten(text: str, limit: int = 200) -> str:
    """Return a text of other people as a message can show it: at most `limit` characters, none that cannot be printed."""
    shown = text[:limit].encode("utf-8", "backslashreplace").decode()
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return what a message about an unknown word ends with: the nearest known one, if any is near, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    parts = [*(f" Did you mean {name}?" for name in near), f" Known here: {', '.join(names)}." if names else ""]
    return "".join(parts)


def check_keys(values: Iterable[str], known: Iterable[str], section: str = "") -> None:
    """Raise `UserError` for the first key of a configuration's section that is not among the known ones."""
    known = set(known)
    for key in values:
        if key not in known:
            full = f"{section}.{key}" if section else key
            raise UserError(f"configuration has no key {full}.{suggestion(key, known)}")


def foreign_key(key: str, group: str, owners: Iterable[str]) -> str:
    """Return what is said of a setting that the chosen option of a group has not, but others of its options have."""
    names = list(owners)
    return (
        f"configuration has no key {key} here: it belongs to {' and '.join(f'{group}={name}' for name in names)}. "
        f"Remove it, or choose {group}={names[0]}."
    )
