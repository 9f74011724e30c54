"""When the next call may be made: back-off after failures, a common pause after a rate limit, a breaker."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

from nemo_mm_align.labeling.judge import JudgeFailure


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter, in seconds.

    The wait after failure n (1, 2, ...) is drawn from the upper half of ``min(maximum, initial * 2**(n - 1))``, and is
    at least what the service asked for.
    """

    initial: float
    maximum: float

    def delay(self, failure: JudgeFailure, number: int) -> float:
        """Return the seconds to wait before the next attempt."""
        ceiling = min(self.maximum, self.initial * 2.0 ** (number - 1))
        asked = failure.retry_after or 0.0
        return max(ceiling * random.uniform(0.5, 1.0), asked + ceiling * random.uniform(0.0, 0.1))


@dataclass
class Gate:
    """Holds all workers back while a rate limit lasts, so that they do not run into it one after the other."""

    opens_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long."""
        with self.lock:
            self.opens_at = max(self.opens_at, time.monotonic() + seconds)

    def wait(self, stop: threading.Event) -> bool:
        """Wait until the gate is open; False where `stop` was set before."""
        while (remaining := self.opens_at - time.monotonic()) > 0:
            if stop.wait(remaining):
                return False
        return not stop.is_set()


@dataclass
class Breaker:
    """Counts calls that failed in a row, over all workers."""

    limit: int
    in_a_row: int = 0

    def failed(self) -> bool:
        """Count a failure; True where it was one too many."""
        self.in_a_row += 1
        return self.in_a_row >= self.limit

    def succeeded(self) -> None:
        """Start counting anew."""
        self.in_a_row = 0
