"""The label command, started often and killed at chosen moments.

``python -m nemo_mm_align.benchmarks.dying_label`` imports everything once and then runs ``scripts/label.py`` in forked
children: one JSON line per run on its standard input, the child's number and later its exit status on its output.
A child can be told to die by itself in one of two moments that no clock can hit.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from nemo_mm_align.core.repository import ROOT

SCRIPT = ROOT / "scripts/label.py"

Death = Literal["", "before_line", "torn_line"]
"""Between a reply and its line in the ledger; inside the write of a line; "" for a child that goes on."""

TORN_BYTES = 40
"""What is left of a torn line."""


class LabelStarter:
    """The process that forks; one child at a time.

    Args:
        process: ``python -m nemo_mm_align.benchmarks.dying_label``.
        folder: working folder of the children; their output is appended to ``output.txt`` there.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    def start(self, arguments: list[str], death: Death = "", at: int = 0) -> int:
        """Start a run with these overrides and return the number of its process; it dies at attempt `at` (from 0)."""
        assert self.process.stdin is not None
        order = {"arguments": arguments, "folder": str(self.folder), "death": death, "at": at}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """Wait for the end of the run; return its exit code, or minus the signal that killed it."""
        return self._answer()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process that starts label runs ended with {self.process.wait()}")
        return int(line)


@contextlib.contextmanager
def label_starter(folder: Path, environment: Mapping[str, str]) -> Iterator[LabelStarter]:
    """Start the forking process; it ends with the block, and so does a child that still runs."""
    command = [sys.executable, "-m", "nemo_mm_align.benchmarks.dying_label"]
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**environment, "PYTHONPATH": path}, start_new_session=True, **pipes)
    try:
        yield LabelStarter(process, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def arm(death: Death, at: int) -> None:
    """Make this process die at the attempt of number `at`, counted from 0 over all threads."""
    from nemo_mm_align.labeling import stage
    from nemo_mm_align.labeling.judge_ledger import JudgeAttempt, JudgeLedger

    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it; only the main thread may set this
    lock = threading.Lock()
    count = 0

    class DyingLedger(JudgeLedger):
        def add(self, attempt: JudgeAttempt) -> None:
            nonlocal count
            with lock:
                if count == at and death == "before_line":
                    os.kill(os.getpid(), signal.SIGKILL)
                if count == at and death == "torn_line":
                    die_in_the_next_write(self.path)
                count += 1
                super().add(attempt)  # within the lock: no other line may come between the limit and the line it tears

    vars(stage)["JudgeLedger"] = DyingLedger


def die_in_the_next_write(path: Path) -> None:
    """Let the system end this process when a file grows by more than `TORN_BYTES` beyond the size of this one."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + TORN_BYTES, resource.RLIM_INFINITY))


def _run(order: Mapping[str, Any]) -> int:
    """In the child: run the script and return its exit code."""
    os.chdir(order["folder"])
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if order["death"]:
        arm(order["death"], order["at"])
    sys.argv = [str(SCRIPT), *order["arguments"]]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def main() -> None:
    """Fork a child per line of standard input."""
    import hydra  # noqa: F401

    import nemo_mm_align.labeling.stage
    import nemo_mm_align.llm.clients.gemini  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _run(json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
