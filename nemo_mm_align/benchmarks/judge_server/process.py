"""The server in a thread of this process, or in a process of its own with a log that outlives every client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.judge_server.server import Behaviour, JudgeServer


@contextmanager
def judge_server(
    behaviour: Behaviour | None = None, delay: float = 0.0, allow_text: bool = False
) -> Iterator[JudgeServer]:
    """Run a server in a thread, with what it received in `exchanges`."""
    server, loop = JudgeServer(behaviour, delay, allow_text=allow_text), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="judge-server", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@dataclass
class ServerProcess:
    """A server in a process of its own."""

    address: str
    log: Path
    process: subprocess.Popen[str]
    _read: int = 0
    _requests: list[dict[str, Any]] = field(default_factory=list)

    def requests(self) -> list[dict[str, Any]]:
        """Return what was received so far: per request number, time (monotonic, s), question, fault."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            lines, end, _ = file.read().rpartition(b"\n")
        self._read += len(lines) + len(end)
        values = [json.loads(line) for line in lines.splitlines()]
        self._requests += [value for value in values if "question" in value]
        return self._requests.copy()


@contextmanager
def server_process(log: Path, delay: float = 0.0, allow_text: bool = False, **plan: Any) -> Iterator[ServerProcess]:
    """Start ``python -m nemo_mm_align.benchmarks.judge_server``; `plan` as in `FaultPlan`."""
    settings = {"log": str(log), "delay": delay, "allow_text": allow_text, "plan": plan}
    command = [sys.executable, "-m", "nemo_mm_align.benchmarks.judge_server", json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the judge server ended with {process.wait()} before it listened")
        yield ServerProcess(address, log, process)
    finally:
        process.kill()
        process.communicate()
