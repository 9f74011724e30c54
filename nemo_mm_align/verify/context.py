"""What a step is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.verify import programs


@dataclass(frozen=True)
class Context:
    """One step's surroundings.

    Args:
        gpus: that take part; 0 on the CPU.
        ranks: processes that compute together: one per GPU, two on the CPU.
        deadline: of the step, on the monotonic clock.
        work: folder for its files, removed at the end.
        log: for all output.
        variables: for the environment of its programs.
    """

    gpus: int
    ranks: int
    deadline: float
    work: Path
    log: Path
    variables: Mapping[str, str]

    @property
    def left_s(self) -> float:
        """Seconds until the step's programs are killed."""
        return max(0.0, self.deadline - time.monotonic())

    def python(
        self,
        words: Sequence[str],
        variables: Mapping[str, str] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> programs.Ended:
        """Run Python on words, with further variables; see `programs.run`."""
        return programs.run(words, self.left_s, self.log, {**self.variables, **(variables or {})}, until)
