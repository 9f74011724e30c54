"""A study as jobs with what each waits for: what cells share is a job of its own, done once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemo_mm_align.evaluation.results import BASE
from nemo_mm_align.miniature.steps import Step
from nemo_mm_align.miniature.study.steps import StudySteps
from nemo_mm_align.miniature.study.study import Cell, Study

SHARED = "shared"


@dataclass(frozen=True)
class Job:
    """What one process does.

    Args:
        name: ``shared``, ``round/VARIANT/SEED`` or ``cell/VARIANT/SEED``.
        waits: names of jobs that come before it; one that is not to be run is done.
        cell: whose figures it makes; None for work that cells share.
        kind: jobs of one kind take about as long.
    """

    name: str
    waits: tuple[str, ...]
    kind: str
    cell: Cell | None = None

    def __str__(self) -> str:
        group, _, rest = self.name.partition("/")
        return {"cell": str(self.cell), "round": f"answers of {rest.replace('/', ' seed ')}"}.get(group, self.name)


_SHARED = Job(SHARED, (), SHARED)


def jobs_of(study: Study) -> dict[str, Job]:
    """Return the jobs that the unfinished cells need, by name, in the order in which they are begun."""
    jobs: dict[str, Job] = {}
    unfinished = study.unfinished()
    for cell in unfinished:
        for job in _needed(study, cell, set(unfinished)):
            jobs.setdefault(job.name, job)
    return jobs


def _needed(study: Study, cell: Cell, unfinished: set[Cell]) -> list[Job]:
    """A cell's job with all that come before it."""
    if study.settings.recipe_of(cell.variant) is None:
        return [_SHARED, Job(f"cell/{cell.variant}/{cell.seed}", (SHARED,), BASE, cell)]
    before = _round(study, study.start_of(cell), cell.seed, unfinished)
    return [*before, Job(f"cell/{cell.variant}/{cell.seed}", (before[-1].name,), study.method(cell), cell)]


def _round(study: Study, start: Cell | None, seed: int, unfinished: set[Cell]) -> list[Job]:
    """The job that makes a model's judged answers, last, with all that come before it; no start: the base."""
    if start is None:
        return [_SHARED, Job(f"round/{BASE}/{seed}", (SHARED,), f"answers of {BASE}")]
    before = _round(study, study.start_of(start), seed, unfinished)
    jobs = _needed(study, start, unfinished) if start in unfinished else before
    waits = tuple(dict.fromkeys((before[-1].name, jobs[-1].name)))
    return [*jobs, Job(f"round/{start.variant}/{seed}", waits, f"answers of {start.variant}")]


def steps_of(job: Job, steps: StudySteps) -> list[Step]:
    """Return the steps of a job."""
    group, _, rest = job.name.partition("/")
    if job.cell is not None:
        return steps.cell(job.cell)
    if group == SHARED:
        return steps.shared()
    variant, _, seed = rest.partition("/")
    return steps.base_round(int(seed)) if variant == BASE else steps.round_of(Cell(variant, int(seed)))


def ready(jobs: Mapping[str, Job], begun: set[str], done: set[str]) -> list[Job]:
    """Return the jobs that can be begun, in order; what is not among the jobs was done before."""
    return [
        job
        for job in jobs.values()
        if job.name not in begun and all(name in done or name not in jobs for name in job.waits)
    ]
