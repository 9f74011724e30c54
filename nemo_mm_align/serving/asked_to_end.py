"""Who asks a server to end, and how."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from nemo_mm_align.parallel.stopping import StopRequest


class ServerStop(StopRequest):
    """Besides what `StopRequest` knows, SIGINT: once as SIGTERM, twice the process ends at once."""

    def listen(self) -> None:
        """Install the signal handlers."""
        super().listen()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.here(look=False):
            os._exit(128 + signal.SIGINT)
        self.request()
