"""Reads every record of the data, notes every fault, and puts what is wanted into the spool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from nemo_mm_align.datasets.faults import FaultReport, MalformedRecord, Problem
from nemo_mm_align.datasets.formats.keys import KeyCheck
from nemo_mm_align.datasets.prepare.images import Images, missing_images
from nemo_mm_align.datasets.prepare.known import check_form
from nemo_mm_align.datasets.prepare.products import Groups, Made, checked_draft, make
from nemo_mm_align.datasets.prepare.selection import Selection
from nemo_mm_align.datasets.prepare.settings import PrepareSettings
from nemo_mm_align.datasets.prepare.source import ANNOTATIONS, Item, Product, Source
from nemo_mm_align.datasets.prepare.spool import Spool
from nemo_mm_align.datasets.prepare.summary import PrepareSummary
from nemo_mm_align.datasets.source_rows import Row, rows


class Reader:
    """One pass over the data.

    Attributes:
        report: all faults.
        summary: what was read and left out.
        keys: those that nobody knows.
    """

    def __init__(self, source: Source, settings: PrepareSettings, product: Product) -> None:
        self.source, self.settings, self.product = source, settings, product
        self.report = FaultReport(", ".join(settings.files))
        self.summary = PrepareSummary(source.name, product, paper=source.paper)
        self.keys = KeyCheck(chosen_format=True)
        self._selection = Selection(settings)
        self._known = (*source.used, *source.published)
        self._images = {file: Images(settings, file) for file in settings.files}

    def fill(self, spool: Spool) -> None:
        """Read all, and put what is wanted into the spool; annotations at the end, when their answers are together."""
        groups = Groups(self.settings.attribute_schema, self.source.judge)
        for made in self._made():
            if self.product == ANNOTATIONS:
                self.summary.answers += 1
                groups.add(made)
            else:
                spool.add(self._distinct(made))
        for made in groups.annotations():
            spool.add(self._distinct(made))
        self.summary.records, self.summary.refused = self.report.records, self.report.refused
        self.summary.faults = self.report.counts

    def _made(self) -> Iterator[Made]:
        for file, row in self._rows():
            self.report.records += 1
            made = self._read(file, row)
            reason = None if made is None else self._selection.refusal(made) or self._without_image(made)
            if reason is not None:
                self.summary.dropped[reason] += 1
            elif made is not None:
                yield made

    def _rows(self) -> Iterator[tuple[str, Row]]:
        first, end = self.settings.records or (0, None)
        number = 0
        for file in self.settings.files:
            found = rows(file, self.settings.split, self.settings.cache)
            looked_at = False
            for row in tqdm(found, f"reading {file}", unit=" records", disable=None):  # shown on a terminal alone
                if not looked_at and isinstance(row.record, Mapping):
                    check_form(row.record, self.source, file)
                    looked_at = True
                if end is not None and number >= end:
                    return
                if number >= first:
                    yield file, row
                number += 1

    def _read(self, file: str, row: Row) -> Made | None:
        """Return what a record gives; None where it has a fault or is left out, which is noted."""
        where = row.where if len(self.settings.files) == 1 else f"{file}, {row.where}"
        problems: list[Problem] = []
        made = None
        try:
            made, problems = self._item(file, row.record_id, row.record)
        except MalformedRecord as error:
            problems = error.problems
        except RecursionError:
            problems = [Problem("json", "nested too deeply.", "mend or remove the record.")]
        self.report.add(where, row.record_id, problems)
        return None if problems else made

    def _item(
        self, file: str, record_id: str, record: Mapping[str, Any] | Problem
    ) -> tuple[Made | None, list[Problem]]:
        if isinstance(record, Problem):
            return None, [record]
        refused = list(self.keys.record(record, self._known, has_images=True))
        item = self.source.parse(record, record_id)
        if not isinstance(item, Item):
            if not refused:
                self.summary.dropped[item] += 1
            return None, refused
        draft = checked_draft(item, self.source, self.settings, self.product)
        draft.problems += refused
        made = make(item, self.settings, self.product, self._images[file].resolve)
        if item.note and made:
            self.summary.notes[item.note] += 1
        return made, draft.problems

    def _without_image(self, made: Made) -> str | None:
        if self.settings.images != "drop" or not missing_images(made.images, self.settings.out):
            return None
        return "its image is missing"

    def _distinct(self, made: Made) -> Made:
        name = self._selection.distinct(made.id)
        if name == made.id:
            return made
        self.summary.numbered += 1
        if self.product == ANNOTATIONS:
            prompt = made.record.prompt.model_copy(update={"id": name})  # type: ignore[attr-defined]
            return replace(made, id=name, record=made.record.model_copy(update={"prompt": prompt}))
        return replace(made, id=name, record=made.record.model_copy(update={"id": name}))
