"""Ratings to compare: annotation files, and tables that people write.

A table is CSV with a header or JSONL, one candidate per line: ``prompt_id``, ``candidate`` (its place in the candidates
file, from 0) and a value for some or all attributes (an empty cell: not rated). Or one preference per line:
``prompt_id``, ``chosen``, ``rejected`` (two such places). Texts are not needed, so that a spreadsheet will do.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.labeling.input_reader import numbered_lines
from nemo_mm_align.labeling.reply.claims import attribute_spellings
from nemo_mm_align.schema.attribute import spelling
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, parse_line

TABLES = (".csv", ".jsonl", ".json", ".ndjson")
PROMPT, CANDIDATE, CHOSEN, REJECTED = "prompt_id", "candidate", "chosen", "rejected"

Values = tuple[float, ...]
"""One value per attribute of the schema, in its order; nan where it was not rated."""


@dataclass
class RatedFile:
    """The ratings of a file, without its texts.

    Args:
        path: the file.
        rater: who rated, as far as the file says it.
        schema_fingerprint: of the schema it was rated on; "" where the file does not say it.
        values: by prompt id and place of the candidate.
        digests: by prompt id, of the candidates' texts; empty for tables.
        preferences: (prompt id, chosen, rejected), places as above.
    """

    path: Path
    rater: str = ""
    schema_fingerprint: str = ""
    values: dict[str, dict[int, Values]] = field(default_factory=dict)
    digests: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    preferences: list[tuple[str, int, int]] = field(default_factory=list)


def read_ratings(path: Path, schema: AttributeSchema) -> RatedFile:
    """Read an annotations file or a table.

    Raises:
        UserError: the file is missing, empty, or has columns that are neither.
        RecordError: a line is broken, rates an unknown attribute or out of its range, or a candidate twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give annotations, or a table of labels as CSV or JSONL.")
    if path.suffix.lower() not in TABLES:
        raise UserError(f"{path}: no table of ratings by its suffix. Save it as .csv or .jsonl (UTF-8).")
    if not _is_csv(path) and _is_annotations(path):
        return _read_annotations(path, schema)
    result = RatedFile(path, rater=path.stem)
    for number, row in _table_rows(path):
        if CHOSEN in row or REJECTED in row:
            result.preferences.append(_preference(path, number, row))
        else:
            _add_row(result, number, row, schema)
    if not result.values and not result.preferences:
        raise UserError(f"{path}: the file is empty; it must hold one rated candidate or preference per line.")
    return result


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def match(first: RatedFile, second: RatedFile) -> Iterator[tuple[str, int, int]]:
    """Yield (prompt id, place in `first`, place in `second`) of each candidate that both have.

    Annotation files are matched by the candidate's text (equal texts of one prompt in their order), tables by place.
    """
    for prompt_id in first.values.keys() & second.values.keys() if first.values and second.values else ():
        if prompt_id in first.digests and prompt_id in second.digests:
            places = {key: place for place, key in enumerate(_numbered(second.digests[prompt_id]))}
            for place, key in enumerate(_numbered(first.digests[prompt_id])):
                if key in places:
                    yield prompt_id, place, places[key]
        else:
            for place in sorted(first.values[prompt_id].keys() & second.values[prompt_id].keys()):
                yield prompt_id, place, place


def _numbered(digests: tuple[bytes, ...]) -> list[tuple[bytes, int]]:
    """Tell equal texts apart by their number."""
    seen = Counter[bytes]()
    result = []
    for digest in digests:
        result.append((digest, seen[digest]))
        seen[digest] += 1
    return result


def _is_annotations(path: Path) -> bool:
    with path.open("rb") as file:
        line = next((text for text in file if text.strip()), b"")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "candidates" in value


def _read_annotations(path: Path, schema: AttributeSchema) -> RatedFile:
    result = RatedFile(path)
    for place, text in numbered_lines(path, Annotation):
        annotation = parse_line(Annotation, text, path, place.line)
        prompt_id = annotation.prompt.id
        if prompt_id in result.values:
            raise RecordError(path, place.line, f"prompt {prompt_id!r} stands twice.", "remove one of its lines.")
        _check_ratings(path, place.line, annotation, schema)
        texts = [candidate.text for candidate in annotation.candidates]
        result.digests[prompt_id] = tuple(hashlib.sha256(text.encode()).digest()[:8] for text in texts)
        result.values[prompt_id] = {
            place: tuple(candidate.ratings.get(name, math.nan) for name in schema.names)
            for place, candidate in enumerate(annotation.candidates)
        }
        result.rater, result.schema_fingerprint = annotation.judge, annotation.schema_fingerprint
    return result


def _check_ratings(path: Path, number: int, annotation: Annotation, schema: AttributeSchema) -> None:
    """Raise `RecordError` for a value outside of its attribute's range; attributes of another schema may be there too."""
    for candidate in annotation.candidates:
        for name, value in candidate.ratings.items():
            if name in schema.names:
                _checked(path, number, value, name, schema)


def _table_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (line number, row) of a table."""
    try:
        if _is_csv(path):
            yield from _csv_rows(path)
        else:
            with path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _object(path, number, line)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: {error}. Save the table as CSV or JSONL in UTF-8.") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = [(column or "").strip() for column in reader.fieldnames or ()]
        doubled = [column for column, count in Counter(columns).items() if count > 1]
        if doubled:
            raise RecordError(path, 1, f"column {doubled[0]!r} stands twice.", "remove one of them.")
        if len(columns) == 1:
            raise RecordError(path, 1, f"one column, {columns[0][:80]!r}.", "separate columns by commas.")
        reader.fieldnames = columns
        for row in reader:
            if None in row:
                problem = f"more cells than the {len(columns)} columns of line 1."
                raise RecordError(
                    path, reader.line_num, problem, "put cells with commas in quotes, or remove what is left over."
                )
            yield reader.line_num, row


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        pairs = json.loads(line, object_pairs_hook=list)
        value = dict(pairs) if line.lstrip().startswith("{") else None
    except (ValueError, TypeError, RecursionError):
        value = None
    if value is not None and len(value) < len(pairs):
        raise RecordError(path, number, "a key stands twice.", "remove one of them.")
    if value is None:
        raise RecordError(path, number, "not a JSON object.", f"write {{{PROMPT!r}: ..., {CANDIDATE!r}: 0, ...}}.")
    return value


def _add_row(result: RatedFile, number: int, row: Mapping[str, Any], schema: AttributeSchema) -> None:
    path = result.path
    prompt_id, place = _prompt_id(path, number, row), _place(path, number, row, CANDIDATE)
    candidates = result.values.setdefault(prompt_id, {})
    if place in candidates:
        raise RecordError(path, number, f"candidate {place} of prompt {prompt_id!r} stands twice.", "remove one line.")
    names, given = attribute_spellings(schema), dict[str, float]()
    for column, value in row.items():
        if column in (PROMPT, CANDIDATE):
            continue
        name = names.get(spelling(column or ""))
        if name in given:
            raise RecordError(path, number, f"two columns for {name}.", "remove one of them.")
        if name is None:
            known = ", ".join((PROMPT, CANDIDATE, *schema.names))
            raise RecordError(path, number, f"unknown column {column!r}.", f"columns are {known}.")
        if value not in ("", None):
            given[name] = _checked(path, number, value, name, schema)
    candidates[place] = tuple(given.get(name, math.nan) for name in schema.names)


def _checked(path: Path, number: int, value: Any, name: str, schema: AttributeSchema) -> float:
    plain = isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,20})?\s*", value)
    try:
        return schema[name].check(float(value) if plain else value)
    except UserError as error:
        raise RecordError(path, number, str(error), "correct the value, or leave it empty.") from None


def _preference(path: Path, number: int, row: Mapping[str, Any]) -> tuple[str, int, int]:
    unknown = [column for column in row if column not in (PROMPT, CHOSEN, REJECTED)]
    if unknown:
        known = ", ".join((PROMPT, CHOSEN, REJECTED))
        raise RecordError(path, number, f"unknown column {unknown[0]!r} beside a preference.", f"columns are {known}.")
    chosen, rejected = _place(path, number, row, CHOSEN), _place(path, number, row, REJECTED)
    if chosen == rejected:
        raise RecordError(path, number, "chosen and rejected are the same candidate.", "leave ties out.")
    return _prompt_id(path, number, row), chosen, rejected


def _prompt_id(path: Path, number: int, row: Mapping[str, Any]) -> str:
    value = row.get(PROMPT)
    if value is None or value == "":
        raise RecordError(path, number, f"no {PROMPT}.", f"each line needs {PROMPT} and {CANDIDATE}.")
    return str(value)


def _place(path: Path, number: int, row: Mapping[str, Any], column: str) -> int:
    text = str(row.get(column, "")).strip()
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        problem = f"{column} is {row.get(column)!r}, not the place of a candidate."
        raise RecordError(path, number, problem, "count the candidates of a prompt from 0, as in the candidates file.")
    return int(text)
