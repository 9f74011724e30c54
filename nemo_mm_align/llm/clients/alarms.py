"""Functions that are called at their time, all from one thread: a thread per call costs more than its request does."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable


class Alarms:
    """Calls functions after so many seconds, from a thread that is made with the first of them.

    They must not wait for anything: the next one is called after it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._times: list[tuple[float, int]] = []
        self._functions: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def set(self, seconds: float, function: Callable[[], None]) -> int:
        """Have a function called in so many seconds; return the number by which it is called off."""
        entry = (time.monotonic() + seconds, next(self._numbers))
        with self._changed:
            self._functions[entry[1]] = function
            heapq.heappush(self._times, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                self._thread.start()
            elif self._times[0] == entry:
                self._changed.notify()
        return entry[1]

    def cancel(self, number: int) -> None:
        """Call a function off; nothing where it was called already."""
        with self._changed:
            self._functions.pop(number, None)
            self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        while self._times and self._times[0][1] not in self._functions:
            heapq.heappop(self._times)

    def _run(self) -> None:
        while True:
            self._next()()

    def _next(self) -> Callable[[], None]:
        """Wait for the next function that is due and return it."""
        with self._changed:
            while True:
                self._drop_cancelled()
                wait = self._times[0][0] - time.monotonic() if self._times else None
                if wait is not None and wait <= 0:
                    return self._functions.pop(heapq.heappop(self._times)[1])
                self._changed.wait(wait)


def _renew() -> None:
    """Start anew in a process that was forked: the thread stayed in its parent, and so did those who wait."""
    global ALARMS
    ALARMS = Alarms()


ALARMS = Alarms()
"""Those of this process."""

os.register_at_fork(after_in_child=_renew)
