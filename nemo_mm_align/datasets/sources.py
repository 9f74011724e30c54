"""Training data from files, folders and the hub, in any of the formats of `datasets.formats`.

Reading is strict: every record is read and every fault of every record noted before the first example is returned, and
by default one fault refuses the source, so that nothing is trained on silently.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from nemo_mm_align.core.errors import UserError, shorten
from nemo_mm_align.datasets.draft import check, finish
from nemo_mm_align.datasets.faults import FaultReport, MalformedRecord, Problem
from nemo_mm_align.datasets.formats import FORMATS, Context, detect
from nemo_mm_align.datasets.formats.keys import KeyCheck
from nemo_mm_align.datasets.huggingface import check_name
from nemo_mm_align.datasets.image_store import default_cache, is_data_url, store_data_url
from nemo_mm_align.datasets.source_rows import Row, check_file, rows
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.examples import Example
from nemo_mm_align.schema.image_paths import resolve_image

logger = logging.getLogger(__name__)

SHOWN_KEYS = 20
"""In the warning of keys that are not read."""


class SourceSettings(BaseModel):
    """Where training data come from and how strictly they are read.

    Args:
        path: a file (JSON or JSONL, gzip-compressed too, Parquet, Arrow, CSV; its content says which), a folder (saved by
            `datasets`, or of data files), or the name of a dataset on the Hugging Face hub.
        format: one of `datasets.formats.FORMATS`; ``auto`` goes by the first record.
        image_root: folder of the records' relative image paths; by default the folder of the file.
        split: of a `datasets` source.
        on_fault: ``error`` refuses a source with any fault, ``drop`` leaves the faulty records out.
        fault_report: file for all faults, one JSON object per line.
        ignore_labels: labels outside the attribute schema that are left out without a fault.
        image_cache: folder for images that are stored inside a dataset or a record.
        add_image_placeholders: put ``<image>`` in front of the first question of a record that has images and no place
            for them.
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
    add_image_placeholders: bool = False

    @property
    def cache(self) -> Path:
        """The folder of images that are stored inside the data."""
        return Path(self.image_cache).expanduser() if self.image_cache else default_cache()

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        if name != "auto" and name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; known: auto, {', '.join(FORMATS)}")
        return name


def check_present(settings: SourceSettings) -> None:
    """Raise `UserError` where a source cannot be there: a file or folder that is missing, as far as a name tells."""
    if not Path(settings.path).exists():
        check_file(Path(settings.path))
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
    found = rows(settings.path, settings.split, settings.cache)
    examples = [example for row in found if (example := reader.read(row)) is not None]
    _judge(report, examples, settings)
    reader.warn(len(examples))
    return examples


class _Reader:
    """Reads record after record, in the format that the first one shows, and notes their faults."""

    def __init__(self, settings: SourceSettings, schema: AttributeSchema | None, report: FaultReport) -> None:
        self.settings, self.schema, self.report = settings, schema, report
        self.format = None if settings.format == "auto" else settings.format
        self.keys, self.ties = KeyCheck(chosen_format=self.format is not None), 0

    def read(self, row: Row) -> Example | None:
        """Return the example of a record, or None where it has a fault."""
        self.report.records += 1
        if isinstance(row.record, Problem):
            self.report.add(row.where, row.record_id, [row.record])
            return None
        self.format = self.format or detect(row.record, self.settings.path)
        try:
            return self._example(row, row.record)
        except MalformedRecord as error:
            self.report.add(row.where, row.record_id, error.problems)
        except RecursionError:
            problem = Problem("json", "nested too deeply.", "mend or remove the record.")
            self.report.add(row.where, row.record_id, [problem])
        return None

    def _example(self, row: Row, record: Mapping[str, Any]) -> Example | None:
        settings, form = self.settings, FORMATS[str(self.format)]
        draft = form.parse(record, row.record_id, Context(self.schema, settings.ignore_labels))
        draft.problems += self.keys.record(record, form.used, bool(draft.images))
        for key, used in form.messages.items():
            draft.problems += self.keys.messages(key, record.get(key), used)
        check(draft, self.schema, settings.ignore_labels, settings.add_image_placeholders)
        self.ties += draft.tied
        example = finish(draft, self._resolve)
        self.report.add(row.where, row.record_id, draft.problems)
        return example

    def _resolve(self, path: str) -> Path:
        if is_data_url(path):
            return store_data_url(path, self.settings.cache)
        return resolve_image(path, _base(self.settings.path), self.settings.image_root)

    def warn(self, count: int) -> None:
        """Say once what was read and is not used."""
        path = self.settings.path
        if self.keys.unknown:
            logger.warning("%s: no training reads these keys: %s", path, _listed(self.keys.unknown))
        if self.ties:
            logger.warning(
                "%s: chosen and rejected have equal scores in %d of %d pairs: nothing there says which is better",
                path,
                self.ties,
                count,
            )


def _listed(counts: Counter[str]) -> str:
    shown = [f"{shorten(key, 60)} ({count:,} times)" for key, count in counts.most_common(SHOWN_KEYS)]
    return ", ".join(shown) + (f" and {len(counts) - SHOWN_KEYS} more" if len(counts) > SHOWN_KEYS else "")


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
