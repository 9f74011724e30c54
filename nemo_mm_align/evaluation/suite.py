"""Several tasks in one evaluation: one results.json, one report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.evaluation.cost import Cost, total_cost
from nemo_mm_align.evaluation.results import Results, Section, SourceFacts
from nemo_mm_align.evaluation.suite_page import suite_files
from nemo_mm_align.evaluation.task_report import TaskReport

__all__ = ["Suite", "TaskReport", "suite_of", "write_suite"]


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
    """Write results.json (format 3), report.html and report.md of several tasks into `folder`; return what they hold.

    Raises:
        UserError: the image of a sample is missing or broken. Nothing is written then.
    """
    suite, folder = suite_of(reports), Path(folder)
    html, text = suite_files(reports, suite.created)
    write_text(folder / "results.json", suite.model_dump_json(indent=2) + "\n")
    write_text(folder / "report.html", html)
    write_text(folder / "report.md", text)
    return suite
