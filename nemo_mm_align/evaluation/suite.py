"""Several tasks in one evaluation: one results.json, one report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.cost import Cost, total_cost
from nemo_mm_align.evaluation.results import Results, Section, SourceFacts
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.schema.attributes import AttributeSchema


@dataclass(frozen=True)
class TaskReport:
    """One task's part of a report.

    Args:
        results: its figures.
        schema: what its judge rates by.
        samples, steered: what the report shows of its answers.
        cautions: what a reader could take for success and is not.
        scored: all its answers by method, for the plot of score against length.
    """

    results: Results
    schema: AttributeSchema
    samples: Sequence[ReportSample] = ()
    steered: Sequence[SteeredSample] = ()
    cautions: Sequence[str] = ()
    scored: Mapping[str, Sequence[ScoredAnswer]] = field(default_factory=dict)


class Suite(Section):
    """results.json of several tasks: `cost` is their sum, `sources` by task; `created` is an ISO date and time."""

    format: Literal[3] = 3
    created: str
    tasks: dict[str, Results]
    cost: Cost | None = None
    sources: dict[str, list[SourceFacts]] = {}


def suite_of(reports: Mapping[str, TaskReport]) -> Suite:
    """Put the figures of several tasks together, by the names they go by."""
    return Suite(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tasks={name: report.results for name, report in reports.items()},
        cost=total_cost(report.results.cost for report in reports.values() if report.results.cost),
        sources={name: report.results.sources for name, report in reports.items() if report.results.sources},
    )


def write_suite(folder: str | Path, reports: Mapping[str, TaskReport]) -> Suite:
    """Write results.json (format 3), report.html and report.md of several tasks into `folder`; return what they hold."""
    suite = suite_of(reports)
    write_text(Path(folder) / "results.json", suite.model_dump_json(indent=2) + "\n")
    return suite
