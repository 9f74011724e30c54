"""Faults of data records: every fault of every record, with its remedy, as a report and as a summary."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nemo_mm_align.core.atomic import write_lines
from nemo_mm_align.core.errors import shorten

SHOWN = 5
"""Examples of faults in a summary; the report has them all."""

KEPT_FAULTS = 100_000
"""In full: a file of another kind, with a fault in each of its lines, is no reason to fill the memory."""

ID_CHARACTERS, PROBLEM_CHARACTERS = 100, 1000
"""Of a record's id and of what is said of it: other people's texts may be of any length."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a record. `kind` is a short word to count by."""

    kind: str
    problem: str
    remedy: str


class MalformedRecord(Exception):
    """A record so broken that it cannot be read any further."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(problem.problem for problem in problems))


@dataclass(frozen=True)
class Fault:
    """A problem and the record that has it: `where` is ``line 3`` of a JSONL file or ``record 3`` of a list."""

    where: str
    record_id: str
    kind: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where} (id {self.record_id}): {self.problem} Remedy: {self.remedy}"


@dataclass
class FaultReport:
    """All faults of one source, and how many records it has.

    Attributes:
        source: the file or dataset.
        records, refused: how many there are, and how many of them have a fault.
        faults: the first `KEPT_FAULTS` in full.
        counts: of all, by their kind.
    """

    source: str
    records: int = 0
    refused: int = 0
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, where: str, record_id: str, problems: list[Problem]) -> None:
        """Note the problems of one record, in text that every log and file can hold."""
        self.refused += bool(problems)
        for item in problems:
            self.counts[item.kind] += 1
            if len(self.faults) < KEPT_FAULTS or self.counts[item.kind] == 1:
                problem, remedy = (shorten(text, PROBLEM_CHARACTERS) for text in (item.problem, item.remedy))
                self.faults.append(Fault(where, shorten(record_id, ID_CHARACTERS), item.kind, problem, remedy))

    def summary(self) -> str:
        """Return counts per kind of fault, each with its first occurrence, and the first faults in full."""
        counts = self.counts
        lines = [f"{self.source}: {self.refused} of {self.records} records refused, {counts.total()} faults:"]
        lines += [f"  {count:6d} x {kind}" for kind, count in counts.most_common()]
        firsts = list({fault.kind: fault for fault in reversed(self.faults)}.values())[::-1]
        shown = (firsts + [fault for fault in self.faults if fault not in firsts[:SHOWN]])[:SHOWN]
        lines += [f"  {fault}" for fault in shown]
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write one JSON object per fault, replacing the file at once (several ranks may do so); at last what is left out."""
        rows = [{"source": self.source, **asdict(fault)} for fault in self.faults]
        if left_out := self.counts.total() - len(rows):
            rows.append({"source": self.source, "left_out": left_out})
        write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))
