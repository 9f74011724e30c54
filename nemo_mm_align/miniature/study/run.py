"""A slice of a study from its configuration to its report."""

from __future__ import annotations

import json
import logging
from typing import Any

from rich.console import Console

from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import folder_to_write
from nemo_mm_align.miniature.study.figures import all_figures
from nemo_mm_align.miniature.study.jobs import jobs_of
from nemo_mm_align.miniature.study.progress import Progress
from nemo_mm_align.miniature.study.report import write_report
from nemo_mm_align.miniature.study.schedule import Slice
from nemo_mm_align.miniature.study.settings import StudySettings
from nemo_mm_align.miniature.study.study import Study
from nemo_mm_align.miniature.study.worker import SETTINGS

logger = logging.getLogger(__name__)

_MINUTE_S = 60


def run_study(values: dict[str, Any]) -> None:
    """Run cells that have no figures of these settings, until all have or the time is over; then write the report.

    Args:
        values: the resolved configuration (``conf/study.yaml``).

    Raises:
        UserError: settings that do not fit, a damaged file of figures, jobs that failed, or it was asked to stop.
    """
    settings = read(StudySettings, values)
    study, console = Study(settings), Console(soft_wrap=True, highlight=False)
    folder_to_write(study.out)
    failed: list[str] = []
    with owned_output(study.out):
        if settings.report != "only":
            failed = _run_slice(study, console)
        if any(True for _ in all_figures(study.out)):
            console.print(f"report: {write_report(study).resolve()}", markup=False)
        else:
            console.print("no cell is finished yet, so there is nothing to report.")
    if failed:
        raise UserError(f"{len(failed)} jobs failed: {', '.join(failed)}; the same command tries them once more.")


def _run_slice(study: Study, console: Console) -> list[str]:
    """Run jobs; return the names of those that failed."""
    settings, jobs = study.settings, jobs_of(study)
    study.tidy()
    write_text(study.out / SETTINGS, json.dumps(settings.model_dump(mode="json"), indent=1) + "\n")
    known: dict[str, list[float]] = {}
    for cell in study.cells:
        if (found := study.finished(cell)) and found.recipe:
            known.setdefault(study.method(cell), []).append(found.spent.seconds)
    console.print(f"{len(study.cells)} cells, {len(study.unfinished())} of them to be run, as {len(jobs)} jobs")

    def say(line: str) -> None:
        console.print(line, markup=False)
        study.tidy()

    seconds = None if settings.minutes is None else _MINUTE_S * settings.minutes
    progress = Progress(jobs, settings.parallel, known, say)
    work = Slice(study.out.resolve(), jobs, settings.parallel, seconds, progress)
    if not work.run() and not work.failed:
        console.print("the time of this slice is over; the same command goes on.")
    return work.failed
