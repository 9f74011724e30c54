"""Settings of the stage `prepare`, as in ``conf/prepare.yaml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from nemo_mm_align.core.configuration import Count, Natural, Seed, StrictModel
from nemo_mm_align.datasets.image_store import default_cache
from nemo_mm_align.datasets.prepare.source import Product
from nemo_mm_align.schema.attributes import AttributeSchema


class PrepareSettings(StrictModel):
    """What is prepared, and how much of it.

    Args:
        data: the downloaded file, a folder or a data set's name; or a list of them, read one after the other.
        out: JSONL file to write.
        gives: what is made; null: what the source gives first.
        split: of a data set.
        image_root: folder of the images; by default they lie beside the data file.
        image_cache: folder for images that are stored inside the data.
        images: missing ones refuse the run, or leave their records out, or are not looked for.
        add_image_placeholders: ``<image>`` is put before the first question of records that have images and no place for them.
        question: prompts of dialogues: the first question, or the last one behind the published turns before it.
        records: [first, end): numbers of the records that are read, from 0; null for all.
        has_image: records with an image alone, or without one alone; null for both.
        min_answer_words, max_answer_words: of the published answer, of a pair both.
        tasks, origins: that are kept; null for all.
        dedupe: what is the same as something before it, apart from its id, is left out.
        share: of what is left, drawn by id and seed; a smaller share lies inside a larger one.
        count: at most so many of them.
        seed: of the drawing.
        ignore_labels: labels outside the attribute schema that are left out without a fault.
        on_fault: a faulty record refuses the file, or is left out.
        fault_report: file for all faults; null: ``<out>.faults.jsonl``.
        attribute_schema: that attribute lines and ratings are read by.
    """

    data: str | list[str]
    out: Path
    gives: Product | None = None
    split: str = "train"
    image_root: Path | None = None
    image_cache: Path | None = None
    images: Literal["check", "drop", "unchecked"] = "check"
    add_image_placeholders: bool = False
    question: Literal["first", "last"] = "first"
    records: tuple[Natural, Natural] | None = None
    has_image: bool | None = None
    min_answer_words: Natural | None = None
    max_answer_words: Natural | None = None
    tasks: list[str] | None = None
    origins: list[str] | None = None
    dedupe: bool = True
    share: float = Field(default=1, gt=0, le=1)
    count: Count | None = None
    seed: Seed = 1234
    ignore_labels: list[str] = []
    on_fault: Literal["error", "drop"] = "error"
    fault_report: Path | None = None
    attribute_schema: AttributeSchema
    source: dict[str, Any] = {}

    @property
    def files(self) -> list[str]:
        """All that is read."""
        return [self.data] if isinstance(self.data, str) else self.data

    @property
    def cache(self) -> Path:
        """The folder of images that are stored inside the data, absolute."""
        return Path(os.path.abspath(self.image_cache.expanduser())) if self.image_cache else default_cache()

    @property
    def faults(self) -> Path:
        """Where all faults stand."""
        return self.fault_report or Path(f"{self.out}.faults.jsonl")

    @model_validator(mode="after")
    def _fits_together(self) -> PrepareSettings:
        if not self.files:
            raise ValueError("data names no file")
        if self.records is not None and self.records[0] >= self.records[1]:
            raise ValueError(f"records={list(self.records)} holds none; the first must be below the end")
        least, most = self.min_answer_words, self.max_answer_words
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_answer_words={least} is above max_answer_words={most}")
        return self
