"""Stopping on request, for every stage that computes on several ranks: SIGTERM, SIGUSR1 or a stop file.

NeMo's own preemption callback restores the default handler at the first signal; under torchrun the second one, which the
agent forwards, then kills the rank before it has saved. This request may be made any number of times, before training has
begun as well, and the ranks agree on it, so that all of them end after the same step.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from nemo_mm_align.core.run_files import STOP_FILE_VARIABLE

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 128 + signal.SIGTERM
"""Of a stage whose exit code says whether its work is complete. Training ends with 0 and says so by its DONE marker."""

_POLL_SECONDS = 0.5


class Stopped(Exception):
    """The ranks have agreed to stop and nothing is left to save."""


class StopRequest:
    """Whether somebody asked this run to stop.

    Args:
        file: rank 0 looks for it; ``None`` takes the one that the environment names, if any.
    """

    def __init__(self, file: Path | None = None) -> None:
        named = os.environ.get(STOP_FILE_VARIABLE)
        self.file = file or (Path(named) if named else None)
        self._here = False
        self._agreed = False
        self._found = False
        self._looked = float("-inf")
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Install the signal handlers, again if something has replaced them; nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            previous = signal.signal(number, self._on_signal)
            self._previous.setdefault(number, previous)

    def ignore(self) -> None:
        """Put the former handlers back. A script never does: a signal while it ends would change its exit code."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def settle(self) -> None:
        """Remove the file of a request that has been met; a job script's own stays, since it tells why the run has ended."""
        if self._agreed and self._found and self.file is not None and STOP_FILE_VARIABLE not in os.environ:
            self.file.unlink(missing_ok=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._here = True

    def request(self) -> None:
        """Ask this run to stop, as a signal would."""
        self._here = True

    def here(self, look: bool = True) -> bool:
        """Whether this process was asked.

        Args:
            look: also look for the stop file, at most twice a second.
        """
        if look and not self._here and self.file is not None and time.monotonic() - self._looked > _POLL_SECONDS:
            self._looked = time.monotonic()
            self._here = self._found = self.file.exists()
            if self._found:
                logger.warning("%s is there: stopping", self.file)
        return self._here

    def agreed(self) -> bool:
        """Whether any rank was asked; all ranks call this and get the same answer, which stays true."""
        import torch

        from nemo_mm_align.parallel import runtime

        if not self._agreed:
            flag = torch.tensor(float(self.here(look=runtime.rank() == 0)), device=runtime.device())
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self._agreed = bool(flag)
        return self._agreed

    def check(self) -> None:
        """Raise `Stopped` on all ranks if any was asked; all ranks call this."""
        if self.agreed():
            raise Stopped


@contextmanager
def requests(given: StopRequest | None) -> Iterator[StopRequest]:
    """Yield what the caller listens with, or a request of our own that is listened to as long as the block lasts."""
    stop = given or StopRequest()
    if given is None:
        stop.listen()
    try:
        yield stop
    finally:
        stop.settle()
        if given is None:
            stop.ignore()


@contextmanager
def ending_run(given: StopRequest | None, kept: str) -> Iterator[StopRequest]:
    """As `requests`, for a stage whose exit code says whether its work is complete.

    Args:
        given: what the caller listens with, if it does.
        kept: the log's words for what has been done, such as "what has been rated is in FILE".

    Raises:
        SystemExit: with `EXIT_CODE` once the ranks have agreed to stop.
    """
    from nemo_mm_align.parallel import runtime

    with requests(given) as request:
        try:
            yield request
        except Stopped:
            logger.warning("asked to stop: %s; the same command goes on", kept)
            runtime.shutdown()
            raise SystemExit(EXIT_CODE) from None
