"""Lines of a task's own files, with the place of each and a message for what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.sources import source_rows
from nemo_mm_align.schema.image_paths import resolve_image


@dataclass(frozen=True)
class TaskLine:
    """One record of a file: where it stands, and its fields by name."""

    path: Path
    number: int
    fields: dict[str, Any]

    def wrong(self, problem: str, remedy: str = "") -> RecordError:
        """Return the error that names file and line."""
        return RecordError(self.path, self.number, problem, remedy)

    def text(self, key: str) -> str:
        """Return a field that is text; `RecordError` where it is not."""
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise self.wrong(f"{key} is missing or no text", f"write {key} as a string.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a field that is a list of texts, one at least; `RecordError` where it is not."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise self.wrong(f"{key} is missing or no list of texts", f"write {key} as a list of strings.")
        return tuple(value)

    def beside(self, name: str, folder: Path) -> Path:
        """Return the absolute path of an image in a folder; `RecordError` for a name that leads out of it."""
        try:
            return resolve_image(name, folder.absolute() / self.path.name)
        except UserError as error:
            raise self.wrong(str(error)) from None

    def stored(self, key: str) -> Path:
        """Return the file of an image that a dataset holds; `RecordError` where there is none."""
        value = self.fields.get(key)
        if not isinstance(value, str | Path):
            raise self.wrong(f"{key} is missing", f"give a dataset whose column {key} holds the pictures.")
        return Path(value).absolute()

    def key(self, name: str) -> str:
        """Return a field that identifies the record, a text or a whole number, as text."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.wrong(f"{name} is missing", f"write {name} as a text or a whole number.")
        return str(value)


def task_lines(path: Path, split: str = "test", cache: Path | None = None) -> Iterator[TaskLine]:
    """Yield the records of a file or dataset; `UserError` where there is none, or one cannot be read."""
    count = 0
    for where, record in source_rows(path, split, cache):
        count += 1
        yield TaskLine(path, int(where.rsplit(" ", 1)[-1]), record)
    if not count:
        raise UserError(f"{path}: holds no record.")


def by_key(lines: Iterator[TaskLine], name: str) -> dict[str, TaskLine]:
    """Return lines by what identifies them; `RecordError` where two have the same."""
    found: dict[str, TaskLine] = {}
    for line in lines:
        key = line.key(name)
        if key in found:
            raise line.wrong(f"{name} {key} stands in line {found[key].number} already", "keep one of the two.")
        found[key] = line
    return found


def is_dataset(data: Path, file: str) -> bool:
    """Whether data are a dataset (a name, a data file, or a folder with Parquet files) and no folder with a file."""
    return not data.is_dir() or (not (data / file).is_file() and any(data.rglob("*.parquet")))


def first_file(data: Path, names: tuple[str, ...], what: str, setting: str) -> Path:
    """Return the first of some files that is there, relative to a folder.

    Args:
        what: what is looked for, for the message; `setting`: what names it otherwise.

    Raises:
        UserError: none of them.
    """
    for name in names:
        if (data / name).is_file():
            return data / name
    raise UserError(f"{data}: no {what} ({' or '.join(names)}). Put it there, or give its path: {setting}=...")
