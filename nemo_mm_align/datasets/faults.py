"""Faults of data records: every fault of every record, with its remedy, as a report and as a summary."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nemo_mm_align.atomic import write_lines
from nemo_mm_align.errors import shorten

SHOWN = 5
"""Examples of faults in a summary; the report has them all."""

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
    """All faults of one source, and how many records it has."""

    source: str
    records: int = 0
    faults: list[Fault] = field(default_factory=list)

    def add(self, where: str, record_id: str, problems: list[Problem]) -> None:
        """Note the problems of one record, in text that every log and file can hold."""
        shown = shorten(record_id, ID_CHARACTERS)
        self.faults += [
            Fault(
                where,
                shown,
                item.kind,
                shorten(item.problem, PROBLEM_CHARACTERS),
                shorten(item.remedy, PROBLEM_CHARACTERS),
            )
            for item in problems
        ]

    @property
    def refused(self) -> int:
        """Number of records with a fault."""
        return len({fault.where for fault in self.faults})

    def summary(self) -> str:
        """Return counts per kind of fault, each with its first occurrence, and the first faults in full."""
        counts = Counter(fault.kind for fault in self.faults)
        lines = [f"{self.source}: {self.refused} of {self.records} records refused, {len(self.faults)} faults:"]
        lines += [f"  {count:6d} x {kind}" for kind, count in counts.most_common()]
        firsts = list({fault.kind: fault for fault in reversed(self.faults)}.values())[::-1]
        shown = (firsts + [fault for fault in self.faults if fault not in firsts[:SHOWN]])[:SHOWN]
        lines += [f"  {fault}" for fault in shown]
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write one JSON object per fault, replacing the file at once (several ranks may do so)."""
        rows = ({"source": self.source, **asdict(fault)} for fault in self.faults)
        write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))
