"""Lines of a ledger are checked as replies are when they are read: a line changed by hand is noticed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.errors import UserError
from nemo_mm_align.labeling.jobs import Job
from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger


def checked_results(
    ledger: JudgeLedger, jobs: Iterable[Job], keys: list[str], schema: AttributeSchema
) -> Iterator[tuple[Job, JudgeAttempt | None]]:
    """Yield each job with the judgement that holds for it, or None; `keys` are those of the jobs, in their order.

    Raises:
        RecordError: a line is no judgement of its job's candidates on this schema.
    """
    for job, attempt in zip(jobs, ledger.results(keys), strict=True):
        if attempt is not None:
            check_attempt(ledger, attempt, job, schema)
        yield job, attempt


def check_attempt(ledger: JudgeLedger, attempt: JudgeAttempt, job: Job, schema: AttributeSchema) -> None:
    """Raise `RecordError`, with file and line, where a judgement is not one of the job's candidates on this schema."""
    problem = _problem(attempt, len(job.candidates.candidates), schema)
    if problem:
        raise ledger.line_error(job.key, problem)


def _problem(attempt: JudgeAttempt, count: int, schema: AttributeSchema) -> str:
    if attempt.status != "ok":
        return "a judgement and a failure in one."
    if sorted(attempt.order) != list(range(count)):
        return f"order {list(attempt.order)} is none of {count} candidates."
    if len(attempt.ratings) != count or len(attempt.reasoning) != count:
        return f"{len(attempt.ratings)} ratings and {len(attempt.reasoning)} reasonings for {count} candidates."
    for number, ratings in enumerate(attempt.ratings, start=1):
        try:
            schema.check(ratings)
        except UserError as error:
            return f"ratings of candidate {number}: {error}"
    return ""
