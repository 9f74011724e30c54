"""Programs of the steps: within a limit, their output kept, killed with all that they have started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.benchmarks.gpu.run import environment
from nemo_mm_align.benchmarks.machine import kill_tree
from nemo_mm_align.core.repository import ROOT

_POLL_S = 0.01
_LAST_LINES, _LINE_LENGTH = 40, 400
_HERE = ("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")
"""Ranks of this machine meet by address: ``--standalone`` takes its name, which not every container can resolve."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Args:
        code: exit code; ``None`` where it had to be killed at its limit.
        lines: its last lines of output.
        watched: whether what was waited for came before the end.
    """

    code: int | None
    lines: tuple[str, ...]
    watched: bool = False

    @property
    def how(self) -> str:
        """In words."""
        if self.code is None:
            return "not finished within its limit"
        return f"exit code {self.code}" if self.code >= 0 else f"ended by signal {-self.code}"


def run(
    words: Sequence[str],
    limit_s: float,
    log: Path,
    variables: Mapping[str, str],
    until: Callable[[], bool] | None = None,
) -> Ended:
    """Run Python on `words` in the checkout's folder, output appended to `log`.

    Args:
        words: arguments of the interpreter.
        limit_s: seconds after which everything that it started is killed.
        log: file for its output.
        variables: for its environment, above `benchmarks.gpu.run.environment`.
        until: kill it (SIGKILL, with all that it started) as soon as this holds.
    """
    end = time.monotonic() + limit_s
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env={**environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
    reached = False
    try:
        while process.poll() is None and time.monotonic() < end:
            if until is not None and until():
                reached = True
                break
            time.sleep(_POLL_S)
        code = process.poll()
    finally:
        if process.poll() is None:
            kill_tree(process)
    return Ended(code, last_lines(log, begin), reached)


def last_lines(log: Path, begin: int = 0) -> tuple[str, ...]:
    """The last lines of a log from a place on; of a progress bar what stood there last."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 2 * _LAST_LINES * _LINE_LENGTH))
        text = file.read().decode(errors="replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip()[:_LINE_LENGTH] for line in text.split("\n")]
    return tuple([line for line in lines if line][-_LAST_LINES:])


def torchrun(ranks: int, script: str) -> list[str]:
    """Words that start a script of the checkout in so many processes; one needs no torchrun."""
    launcher = ["-m", "nemo_mm_align.launch.torchrun", *_HERE, f"--nproc-per-node={ranks}"]
    return [*(launcher if ranks > 1 else []), str(ROOT / "scripts" / script)]
