"""A clean stop: the first Ctrl-C or SIGTERM sets an event, the second one does what it always did."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

log = logging.getLogger(__name__)


@dataclass
class Caught:
    """The signal that asked for the stop, if one came."""

    number: int | None = None


@contextmanager
def stop_on_signal(stop: threading.Event, what: str = "stopping after the calls in flight") -> Iterator[Caught]:
    """Set `stop` on the first SIGINT or SIGTERM; nothing outside the main thread, where Python allows no handlers.

    Args:
        stop: event to set.
        what: the log's first words about what happens then.
    """
    caught = Caught()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        caught.number = number
        stop.set()
        signal.signal(number, previous[signal.Signals(number)])
        log.warning("%s; the same signal again ends the process at once", what)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
