"""Processes that end with the one that started them, so that nothing of a killed run goes on writing beside its restart."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent has gone, however that ends; nothing outside of Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_launcher() -> None:
    """End this rank with torchrun's process, which outlives its ranks unless it is killed.

    Other launchers may leave theirs behind on purpose (a shell that has put a run into the background): nothing is done then.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


def end_forks_with_this_process() -> None:
    """Have every process that is forked from now on end with the one that forked it: writers of checkpoints, readers of data."""
    os.register_at_fork(after_in_child=end_with_parent)
