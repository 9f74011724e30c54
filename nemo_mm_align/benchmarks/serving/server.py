"""``scripts/serve.py`` as a process on a core of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.core.orphans import end_with_parent
from nemo_mm_align.core.repository import ROOT, SCRIPTS

NAME = "measured"
_START_SECONDS, _END_SECONDS, _POLL_SECONDS = 300.0, 60.0, 0.05


@dataclass(frozen=True)
class Server:
    """A server that answers; `process` is its number."""

    address: str
    process: int

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds now, libraries included."""
        pages = Path(f"/proc/{self.process}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(model: Path, scratch: Path, core: int, *overrides: str) -> Iterator[Server]:
    """Serve a folder in fp32 on a free port until the block ends; then the server has to end by itself, without a fault.

    Args:
        model: the folder.
        scratch: for what the server says.
        core: all its threads' one.
        overrides: settings of ``conf/serve.yaml``.

    Raises:
        RuntimeError: it has ended, or ended with a fault; the message has the end of what it said.
    """
    log = scratch / "server.log"
    words = [f"checkpoint={model}", f"name={NAME}", "port=0", "precision=fp32", "playground=false", *overrides]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "serve.py"), *words],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
    os.sched_setaffinity(process.pid, {core})  # threads that it starts later have it from here
    try:
        yield Server(_address(process, log), process.pid)
        process.send_signal(signal.SIGTERM)
        if process.wait(_END_SECONDS) != 0:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{_end_of(log)}")
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        found = re.search(rf"serving {NAME} at (\S+)", log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(_POLL_SECONDS)
    raise RuntimeError(f"the server does not answer (exit code {process.poll()}):\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]
