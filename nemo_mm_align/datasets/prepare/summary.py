"""What was read, written and left out, and why: as a table, as a file, and beside the seed paper's counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.core.atomic import write_json
from nemo_mm_align.core.errors import shorten
from nemo_mm_align.datasets.prepare.spool import Entry

ALL = "all"
"""In the paper's figures: of all origins together."""

SHOWN = 12
"""Origins, tasks, reasons and keys of a kind in the table; the file has all."""


@dataclass
class PrepareSummary:
    """Counts of one run.

    Attributes:
        source, product: what was read, and what was made of it.
        records: read.
        refused: records with a fault; `faults` counts these by kind.
        dropped: records left out, by reason.
        notes: records that were changed in reading, by what was changed.
        numbered: ids that were there already and got a number.
        answers: records that went into annotations.
        written, origins, tasks, images: of what was written; prompts are distinct questions, by origin.
        paper: prompts by origin in the seed paper's file.
        warnings: what a user should look at.
    """

    source: str
    product: str
    records: int = 0
    refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    numbered: int = 0
    answers: int = 0
    written: int = 0
    images: int = 0
    origins: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    paper: Mapping[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def count(self, entries: Iterable[Entry]) -> None:
        """Count what is written."""
        questions = dict[bytes, str]()
        for entry in entries:
            self.written += 1
            self.images += entry.images
            self.origins[entry.origin] += 1
            self.tasks[entry.task] += bool(entry.task)
            questions.setdefault(entry.prompt_key, entry.origin)
        self.prompts.update(questions.values())

    def comparison(self) -> list[str]:
        """Return the distinct prompts beside the seed paper's, a line per origin and one for all; [] without figures."""
        if not self.paper:
            return []
        parts = {name: count for name, count in self.paper.items() if name != ALL}
        lines = [f"{name}: paper: {count:,}, here: {self.prompts[name]:,}" for name, count in parts.items()]
        others = self.prompts.total() - sum(self.prompts[name] for name in parts)
        lines += [f"other origins: paper: 0, here: {others:,}"] if parts and others else []
        if len(lines) != 1:
            total = self.paper.get(ALL, sum(parts.values()))
            lines.append(f"all prompts: paper: {total:,}, here: {self.prompts.total():,}")
        return lines

    def table(self) -> str:
        """Return the counts as aligned lines."""
        rows = [("records read", self.records)]
        rows += [("records with a fault", self.refused)] if self.refused else []
        rows += [(f"  fault: {kind}", count) for kind, count in self.faults.most_common()]
        rows += [(f"left out: {reason}", count) for reason, count in self.dropped.most_common()]
        rows += [(note, count) for note, count in self.notes.most_common()]
        rows += [("ids that came again, now with a number", self.numbered)] if self.numbered else []
        rows += [("rated answers in annotations", self.answers)] if self.answers else []
        rows += [(f"{self.product} written", self.written)]
        rows += [(f"  of {name}", count) for name, count in self.origins.most_common(SHOWN)]
        rows += [(f"  task {shorten(name, 40)}", count) for name, count in (+self.tasks).most_common(SHOWN)]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {count:>9,}" for name, count in rows]
        return "\n".join([*lines, *(f"  {line}" for line in self.comparison())])

    def write(self, path: Path, extra: Mapping[str, Any]) -> None:
        """Write the counts as JSON, with what else belongs to the run: its settings and files."""
        content = {
            "source": self.source,
            "gives": self.product,
            "records": self.records,
            "refused": self.refused,
            "faults": dict(self.faults),
            "dropped": dict(self.dropped),
            "changed": dict(self.notes),
            "numbered_ids": self.numbered,
            "written": self.written,
            "images": self.images,
            "origins": dict(self.origins),
            "tasks": dict(+self.tasks),
            "prompts": dict(self.prompts),
            "paper": dict(self.paper),
            "comparison": self.comparison(),
            "warnings": self.warnings,
            **extra,
        }
        write_json(path, content)
