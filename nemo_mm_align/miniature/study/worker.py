"""One job of a study in a process of its own: python -m nemo_mm_align.miniature.study.worker OUT JOB.

The settings are those that the study wrote to OUT/settings.json. It ends with the study, and what it has started ends with it.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from nemo_mm_align.cli.entry_point import user_errors
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.orphans import end_with_parent
from nemo_mm_align.miniature.run import ENVIRONMENT
from nemo_mm_align.miniature.steps import Step, StepRunner
from nemo_mm_align.miniature.study.jobs import Job, jobs_of, steps_of
from nemo_mm_align.miniature.study.measure import Measuring
from nemo_mm_align.miniature.study.settings import StudySettings
from nemo_mm_align.miniature.study.steps import StudySteps
from nemo_mm_align.miniature.study.study import Study

SETTINGS = "settings.json"


class LogDisplay:
    """A line per step."""

    def begin(self, number: int, count: int, step: Step) -> None:
        """Say which step begins."""
        logging.info("[%d/%d] %s", number, count, step.name)

    def advance(self, fraction: float) -> None:
        """Nothing: a log has no bars."""

    def end(self, outcome: str) -> None:
        """Say how it ended."""
        logging.info("%s", outcome)


def run_job(study: Study, job: Job) -> None:
    """Run the steps of a job that are not done yet.

    Raises:
        UserError: a step failed, or it was asked to stop.
    """
    runner = StepRunner(study.out, ENVIRONMENT, bound=True)
    runner.run(steps_of(job, StudySteps(study, Measuring(study, runner).write)), LogDisplay())


@user_errors
def main(out: str, name: str) -> None:
    """Read the settings and run the job of that name; one that is done already is nothing to run."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    values = json.loads((Path(out) / SETTINGS).read_text(encoding="utf-8"))
    study = Study(read(StudySettings, values))
    job = jobs_of(study).get(name)
    if job is not None:
        run_job(study, job)


if __name__ == "__main__":
    main(*sys.argv[1:])
