"""How fast a run trains: tokens and operations per second, and the share of the device's rate that is used (MFU)."""

from __future__ import annotations

import time
from collections.abc import Callable

from nemo_mm_align.capacity.job import TrainingJob
from nemo_mm_align.capacity.operations import Work, model_flops


class Throughput:
    """Rates of each step, from the end of the step before: data, logging and checkpoints count.

    Args:
        job: the run; its trained and frozen weights decide how many operations a token takes.
        ranks: that share the work.
        rate: dense bf16 operations per second of a device's data sheet; None where it is not known, and there is no MFU.
        clock: seconds, monotonic.
    """

    def __init__(
        self, job: TrainingJob, ranks: int, rate: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.job, self.ranks, self.rate, self.clock = job, ranks, rate, clock
        self._last = clock()

    def start(self) -> None:
        """Count the first step's time from now."""
        self._last = self.clock()

    def step_ended(self, work: Work) -> dict[str, float]:
        """Return seconds, tokens/s over all ranks, teraflops per rank, and MFU where the device's rate is known.

        Args:
            work: of the step, over all ranks.
        """
        now = self.clock()
        seconds, self._last = max(now - self._last, 1e-9), now
        flops = model_flops(self.job, work) / seconds / self.ranks
        rates = {"seconds": seconds, "tokens_per_s": work.tokens / seconds, "tflops": flops / 1e12}
        return rates | ({"mfu": flops / self.rate} if self.rate else {})
