"""What follows from failures: how long to wait before the next attempt, and when to stop trying at all."""

from __future__ import annotations

import random
from dataclasses import dataclass

from nemo_mm_align.llm.failures import CallFailure


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter, in seconds.

    The wait after failure n (1, 2, ...) is drawn from the upper half of ``min(maximum, initial * 2**(n - 1))``, and is
    at least what the service asked for.
    """

    initial: float
    maximum: float

    def delay(self, failure: CallFailure, number: int) -> float:
        """Return the seconds to wait before the next attempt."""
        ceiling = min(self.maximum, self.initial * 2.0 ** (number - 1))
        asked = failure.retry_after or 0.0
        return max(ceiling * random.uniform(0.5, 1.0), asked + ceiling * random.uniform(0.0, 0.1))


@dataclass
class Breaker:
    """Counts calls that failed in a row, over all workers. It knows no half-open state: the run ends."""

    limit: int
    in_a_row: int = 0

    def failed(self) -> bool:
        """Count a failure; True where it was one too many."""
        self.in_a_row += 1
        return self.in_a_row >= self.limit

    def succeeded(self) -> None:
        """Start counting anew."""
        self.in_a_row = 0
