"""Which core does what: server and peer take turns on one, the client has another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED; how a process's clock is numbered says clock_getcpuclockid(3) of Linux


@dataclass(frozen=True)
class Cores:
    """Numbers of two cores; the same twice where this process may use one alone."""

    server: int
    client: int

    @classmethod
    def allowed(cls) -> Cores:
        """Return the first two that this process may use."""
        found = sorted(os.sched_getaffinity(0))
        return cls(found[0], found[1 % len(found)])

    @property
    def shared(self) -> bool:
        """Whether the client takes time from the server."""
        return self.server == self.client


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this thread, and those that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor_seconds(process: int) -> float:
    """Return what all threads of a process have computed so far."""
    return time.clock_gettime((~process << 3) | _PROCESS_CLOCK)
