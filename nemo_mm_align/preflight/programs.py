"""Programs that the doctor asks; they may be missing, hang or fail."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence


def run_program(command: Sequence[str], timeout_s: float = 5) -> subprocess.CompletedProcess[str] | None:
    """Run a program for its output; ``None`` where it is missing, fails or takes longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done if done.returncode == 0 else None
