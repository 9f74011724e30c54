"""The steps in order, and how long each may take."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_S = 20.0
"""A step is not begun with less: it would end before its imports."""


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        name: as in ``--steps``; also the module of this package whose ``perform(context)`` does the work.
        limit_s: seconds after which its processes are killed.
        what: in a few words.
    """

    name: str
    limit_s: float
    what: str


STEPS = (
    Step("imports", 300, "every pinned package and every module of the project"),
    Step("doctor", 300, "scripts/doctor.py on all ranks"),
    Step("tests", 900, "tests/gpu"),
    Step("training", 900, "scripts/train.py, killed in the middle and resumed"),
    Step("benchmark", 700, "python -m nemo_mm_align.benchmarks.gpu"),
)
NAMES = tuple(step.name for step in STEPS)
