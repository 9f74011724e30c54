"""Jobs of a study in processes of their own, some at a time, until all are done or the slice's time is over."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.orphans import end_with_parent
from nemo_mm_align.miniature.study.jobs import Job, ready
from nemo_mm_align.miniature.study.progress import Progress

_POLL_S = 0.2
_TAIL_LINES = 12


class Slice:
    """Runs jobs; one that fails holds up only those that wait for it.

    Args:
        out: the study's folder.
        jobs: to be run, by name.
        parallel: at a time.
        seconds: after which no further one is begun; None for no limit.
        progress: is told what begins and ends.
    """

    def __init__(
        self, out: Path, jobs: Mapping[str, Job], parallel: int, seconds: float | None, progress: Progress
    ) -> None:
        self.out, self.jobs, self.parallel, self.progress = out, jobs, parallel, progress
        self._deadline = float("inf") if seconds is None else time.monotonic() + seconds
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._begun, self._done = set[str](), set[str]()
        self.failed: list[str] = []
        self._stopped = False

    def run(self) -> bool:
        """Run what can be run; return whether every job is done.

        Raises:
            UserError: it was asked to stop, by SIGINT or SIGTERM; the processes have ended by then.
        """
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self._begin() or self._running:
                time.sleep(_POLL_S)
                self._collect()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._stopped:
            raise UserError("stopped as asked. Start the same command again to go on.")
        return len(self._done) == len(self.jobs)

    def log(self, job: Job) -> Path:
        """Where a job's process writes; its steps have logs of their own."""
        return self.out / "logs" / "jobs" / f"{job.name.replace('/', '_')}.log"

    def _begin(self) -> bool:
        """Start processes while there is room, work and time; return whether one was started."""
        waiting = ready(self.jobs, self._begun, self._done)
        room = self.parallel - len(self._running)
        over = self._stopped or time.monotonic() >= self._deadline
        begun = [] if over else waiting[:room]
        for job in begun:
            self._start(job)
        return bool(begun)

    def _start(self, job: Job) -> None:
        log = self.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "nemo_mm_align.miniature.study.worker", str(self.out), job.name]
        with log.open("wb") as file:
            self._running[job.name] = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
            )
        self._begun.add(job.name)
        self.progress.begin(job)

    def _collect(self) -> None:
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[name]
            if code == 0:
                self._done.add(name)
                self.progress.end(self.jobs[name])
            elif not self._stopped:
                self.failed.append(name)
                self.progress.failed(self.jobs[name], self.log(self.jobs[name]), _tail(self.log(self.jobs[name])))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Have every process end; each hands it on to its step."""
        self._stopped = True
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
