"""Waiting for other processes and threads, on a machine that may be very busy."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0
"""A wait for something that must come ends after this: a hang, whatever else the machine has to do."""


def wait_until(condition: Callable[[], object], fault: Callable[[], str | None] = lambda: None) -> None:
    """Return as soon as the condition holds.

    Args:
        condition: asked every 10 ms.
        fault: what rules out that the condition will ever hold (a process has ended, say), as a text.

    Raises:
        AssertionError: with that text, or after `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        found = fault()
        assert found is None or condition(), found
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s"
        time.sleep(0.01)
