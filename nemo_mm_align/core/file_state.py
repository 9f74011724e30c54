"""Whether a file is still the one that was read: its size, and the time of its last change as the system keeps it."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

SETTLED_S = 2.0
"""A file that was changed so shortly before it was read may be changed again without its time showing it."""


def file_state(path: str | Path) -> str:
    """Return ``size ctime`` of a file; ``0 0`` where it is no regular file.

    The time (ctime, in nanoseconds) is the system's own, which no copying tool sets back.
    """
    try:
        status = os.stat(path)
    except OSError:
        return "0 0"
    return f"{status.st_size} {status.st_ctime_ns}" if stat.S_ISREG(status.st_mode) else "0 0"


def is_settled(state: str) -> bool:
    """Whether a file that is in this state now will show it when it changes: it did not change a moment ago."""
    return int(state.split()[1]) < (time.time() - SETTLED_S) * 1e9
