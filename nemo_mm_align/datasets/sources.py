"""Training data from files, folders and the hub, in any of the formats of `datasets.formats`.

Reading is strict: every record is read and every fault of every record noted before the first example is returned, and
by default one fault refuses the source, so that nothing is trained on silently.
"""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.datasets.draft import Example, check, finish
from nemo_mm_align.datasets.faults import FaultReport, MalformedRecord, Problem
from nemo_mm_align.datasets.formats import FORMATS, Context, detect
from nemo_mm_align.datasets.huggingface import check_name, read_rows
from nemo_mm_align.errors import UserError
from nemo_mm_align.records import resolve_image

logger = logging.getLogger(__name__)

BOM = codecs.BOM_UTF8
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


class SourceSettings(BaseModel):
    """Where training data come from and how strictly they are read.

    Args:
        path: a JSON or JSONL file, a folder (saved by `datasets`, or of data files), a data file that `datasets` opens,
            or the name of a dataset on the Hugging Face hub.
        format: one of `datasets.formats.FORMATS`; ``auto`` goes by the first record.
        image_root: folder of the records' relative image paths; by default the folder of the file.
        split: of a `datasets` source.
        on_fault: ``error`` refuses a source with any fault, ``drop`` leaves the faulty records out.
        fault_report: file for all faults, one JSON object per line.
        ignore_labels: labels outside the attribute schema that are left out without a fault.
        image_cache: folder for images that are stored inside a dataset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    format: str = "auto"
    image_root: str | None = None
    split: str = "train"
    on_fault: Literal["error", "drop"] = "error"
    fault_report: str | None = None
    ignore_labels: tuple[str, ...] = ()
    image_cache: str | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        if name != "auto" and name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; known: auto, {', '.join(FORMATS)}")
        return name


def check_present(settings: SourceSettings) -> None:
    """Raise `UserError` where a source cannot be there: a file or folder that is missing, as far as a name tells."""
    path = Path(settings.path)
    if path.suffix.lower() in JSON_SUFFIXES:
        _check_file(path)
    elif not path.exists():
        check_name(settings.path)


def read_examples(settings: SourceSettings, schema: AttributeSchema | None = None) -> list[Example]:
    """Return a source's examples, all of one kind, their image paths absolute or relative to the current directory.

    Args:
        schema: checks attributes and turns labels and attribute lines into them; None leaves attribute lines as text.

    Raises:
        UserError: the source cannot be read, is empty, or has faults (see `SourceSettings.on_fault`).
    """
    report = FaultReport(settings.path)
    reader = _Reader(settings, schema, report)
    examples = [example for row in _rows(settings) if (example := reader.read(*row)) is not None]
    _judge(report, examples, settings)
    return examples


class _Reader:
    """Reads record after record, in the format that the first one shows, and notes their faults."""

    def __init__(self, settings: SourceSettings, schema: AttributeSchema | None, report: FaultReport) -> None:
        self.settings, self.schema, self.report = settings, schema, report
        self.format = None if settings.format == "auto" else settings.format

    def read(self, where: str, record_id: str, record: Mapping[str, Any] | Problem) -> Example | None:
        """Return the example of a record, or None where it has a fault."""
        self.report.records += 1
        if isinstance(record, Problem):
            self.report.add(where, record_id, [record])
            return None
        self.format = self.format or detect(record, self.settings.path)
        try:
            context = Context(self.schema, self.settings.ignore_labels)
            draft = FORMATS[self.format].parse(record, record_id, context)
        except MalformedRecord as error:
            self.report.add(where, record_id, error.problems)
            return None
        check(draft, self.schema, self.settings.ignore_labels)
        example = finish(draft, self._resolve)
        self.report.add(where, record_id, draft.problems)
        return example

    def _resolve(self, path: str) -> Path:
        return resolve_image(path, _base(self.settings.path), self.settings.image_root)


def _base(source: str) -> Path:
    """Return a file beside which relative image paths lie: the source, a file in its folder, or in the current one."""
    path = Path(source)
    if path.is_dir():
        return path / "records"
    return path if path.is_file() else Path("records")


def _judge(report: FaultReport, examples: list[Example], settings: SourceSettings) -> None:
    """Log what was read; raise where faults are not to be dropped or nothing is left."""
    kinds = {type(example).__name__ for example in examples}
    if len(kinds) > 1:
        raise UserError(f"{settings.path}: holds {' and '.join(sorted(kinds))} records; split it into two files.")
    if report.records == 0:
        raise UserError(f"{settings.path}: no record in it.")
    if report.faults:
        _refuse_or_drop(report, examples, settings)
    logger.info("%s: %d examples", settings.path, len(examples))


def _refuse_or_drop(report: FaultReport, examples: list[Example], settings: SourceSettings) -> None:
    summary = report.summary()
    if settings.fault_report:
        report.write(settings.fault_report)
        summary += f"\nAll faults: {settings.fault_report}"
    else:
        summary += "\nSet data.fault_report=FILE for all of them."
    if settings.on_fault == "error":
        raise UserError(f"{summary}\nMend the records, or set data.on_fault=drop to leave them out.")
    if not examples:
        raise UserError(f"{summary}\nNo record is left.")
    logger.warning("%s", summary)


def _rows(settings: SourceSettings) -> Iterator[tuple[str, str, Mapping[str, Any] | Problem]]:
    """Yield where each record stands, its id, and the record or the problem of reading it."""
    path = Path(settings.path)
    if path.suffix.lower() in JSON_SUFFIXES:
        word, records = _read_json(path)
    else:
        cache = Path(settings.image_cache).expanduser() if settings.image_cache else None
        word, records = "record", enumerate(read_rows(settings.path, settings.split, cache), start=1)
    for number, record in records:
        if not isinstance(record, Mapping | Problem):
            record = Problem("json", f"is {type(record).__name__}, not an object.", "write one JSON object per record.")
        record_id = record.get("id") if isinstance(record, Mapping) else None
        yield f"{word} {number}", f"{path.stem}-{number}" if record_id is None else str(record_id), record


def _read_json(path: Path) -> tuple[str, Iterable[tuple[int, Any]]]:
    """Return the word for a record's place (record or line) and the numbered records of a JSON list or JSONL file."""
    _check_file(path)
    try:
        if not _is_list(path):
            return "line", _json_lines(path)
        return "record", enumerate(json.loads(path.read_bytes().removeprefix(BOM).decode()), start=1)
    except ValueError as error:
        raise UserError(f"{path}: not a JSON list ({error}). Check the end of the file; is it complete?") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give a JSON or JSONL file, a folder, or a dataset's name.")


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        first = next((text for line in file if (text := line.removeprefix(BOM).strip())), b"")
    return first.startswith(b"[")


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.removeprefix(BOM).strip().decode())
            except UnicodeDecodeError as error:
                yield number, Problem("encoding", f"not UTF-8 ({error}).", "save the file as UTF-8.")
            except ValueError as error:
                reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
                yield number, Problem("json", f"not a JSON object ({reason}).", "mend or remove the line.")
