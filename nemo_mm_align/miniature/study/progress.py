"""What a study's slice says of itself: a line for each job that begins or ends, with an estimate of what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nemo_mm_align.core.units import describe_age
from nemo_mm_align.miniature.study.jobs import Job


class Progress:
    """Counts jobs and estimates.

    Args:
        jobs: of the slice, by name.
        parallel: at a time.
        known: seconds that earlier jobs of a kind took.
        say: shows a line.
    """

    def __init__(
        self, jobs: Mapping[str, Job], parallel: int, known: Mapping[str, list[float]], say: Callable[[str], None]
    ) -> None:
        self._jobs, self._parallel, self._say = jobs, parallel, say
        self._took = {kind: list(seconds) for kind, seconds in known.items()}
        self._begun: dict[str, float] = {}
        self._left = set(jobs)

    def begin(self, job: Job) -> None:
        """A job begins."""
        self._begun[job.name] = time.monotonic()
        self._say(f"{self._count} {job} ...")

    def end(self, job: Job) -> None:
        """A job is done."""
        took = time.monotonic() - self._begun[job.name]
        self._took.setdefault(job.kind, []).append(took)
        self._left.discard(job.name)
        self._say(f"{self._count} {job}: {took:.0f} s{self._estimate()}")

    def failed(self, job: Job, log: Path, tail: str) -> None:
        """A job failed."""
        self._left.discard(job.name)
        self._say(f"{self._count} {job} failed, the others go on; its log is {log}:\n{tail}")

    @property
    def _count(self) -> str:
        return f"[{len(self._jobs) - len(self._left)}/{len(self._jobs)}]"

    def _estimate(self) -> str:
        left = self.seconds_left()
        return f", about {describe_age(left)} left" if left else ""

    def seconds_left(self) -> float:
        """Estimate what the jobs that are not done will take: the mean of their kind, else of all; nothing is known: 0."""
        means = {kind: float(np.mean(seconds)) for kind, seconds in self._took.items() if seconds}
        if not means:
            return 0.0
        usual = float(np.mean(list(means.values())))
        return sum(means.get(self._jobs[name].kind, usual) for name in self._left) / self._parallel
