"""What a step came to."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """A word for the report. Only `PASSED` says that everything was tried and is right."""

    PASSED = "passed"
    IN_PART = "passed in part"  # what was tried is right, not everything could be
    FAILED = "failed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Outcome:
    """Verdict of a step and what stands behind it.

    Args:
        verdict: see `Verdict`.
        found: one line for the table at the top: figures, or the reason.
        figures: Markdown below the step's heading.
        lines: last lines of output, shown where the step failed.
    """

    verdict: Verdict
    found: str
    figures: str = ""
    lines: tuple[str, ...] = ()


def skipped(why: str) -> Outcome:
    """Nothing could be tried."""
    return Outcome(Verdict.SKIPPED, why)
