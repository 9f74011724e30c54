"""The records of a source, one after the other, whatever it is: JSON, JSONL, a data file, a folder, a dataset's name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.file_kinds import is_gzip, kind_of
from nemo_mm_align.datasets.faults import Problem
from nemo_mm_align.datasets.huggingface import read_rows
from nemo_mm_align.datasets.json_records import is_spread_object, json_items, json_lines

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
FILE_SUFFIXES = (*JSON_SUFFIXES, ".parquet", ".arrow", ".csv", ".tsv", ".txt", ".gz", ".zip", ".zst", ".xz", ".bz2")
"""What is meant as a file where there is none: a dataset's name has no such ending."""


@dataclass(frozen=True)
class Row:
    """Where a record stands (``line 3`` or ``record 3``), its id, and the record or the problem of reading it."""

    where: str
    record_id: str
    record: Mapping[str, Any] | Problem


def rows(source: str, split: str, cache: Path) -> Iterator[Row]:
    """Yield the records of a source.

    Args:
        source: see `SourceSettings.path`.
        split: of a dataset.
        cache: folder for images that are stored inside a dataset.

    Raises:
        UserError: no such source, or nothing that can be read.
    """
    path = Path(source)
    word, records = _open(path, source, split, cache)
    for number, record in records:
        where = f"{word} {number}"
        if not isinstance(record, Mapping | Problem):
            record = Problem("json", f"is {type(record).__name__}, not an object.", "write one JSON object per record.")
        record_id = record.get("id") if isinstance(record, Mapping) else None
        if isinstance(record_id, list | dict):
            record, record_id = Problem("field", "id is no text and no number.", "write id as a string."), None
        yield Row(where, f"{path.stem}-{number}" if record_id is None else str(record_id), record)


def check_file(path: Path) -> None:
    """Raise `UserError` where a path that is no file is called like one."""
    if path.suffix.lower() in FILE_SUFFIXES and not path.is_dir():
        raise UserError(f"{path}: no such file. Give a JSON or JSONL file, a folder, or a dataset's name.")


def _open(path: Path, source: str, split: str, cache: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Return the word for a record's place and the numbered records."""
    if not path.is_file():
        check_file(path)
        return "record", enumerate(read_rows(source, split, cache), start=1)
    kind = kind_of(path)
    if kind == "json list":
        return "record", json_items(path)
    if kind in ("parquet", "arrow") and not is_gzip(path):
        return "record", enumerate(read_rows(source, split, cache, kind), start=1)
    if path.suffix.lower() == ".csv" and kind == "other":
        return "record", enumerate(read_rows(source, split, cache, "csv"), start=1)
    if kind == "json lines" and is_spread_object(path):
        raise UserError(f"{path}: holds one JSON object over several lines. Write a list of records, or one per line.")
    if kind in ("json lines", "empty") or path.with_suffix("").suffix in JSON_SUFFIXES or path.suffix in JSON_SUFFIXES:
        return "line", json_lines(path)
    raise UserError(
        f"{path}: holds neither JSON nor JSONL (both may be gzip-compressed), Parquet, Arrow or CSV (called .csv). Save it as "
        "one of these."
    )
