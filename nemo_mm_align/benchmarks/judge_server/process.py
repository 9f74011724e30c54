"""The server in a thread of this process, or in a process of its own with a log that outlives every client."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.judge_server.server import CONNECTIONS, Behaviour, JudgeServer

_PATIENCE_SECONDS = 300.0


@contextmanager
def judge_server(
    behaviour: Behaviour | None = None, delay: float = 0.0, allow_text: bool = False
) -> Iterator[JudgeServer]:
    """Run a server in a thread, with what it received in `exchanges`."""
    server, loop = JudgeServer(behaviour, delay, allow_text=allow_text), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="judge-server", daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(_PATIENCE_SECONDS)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(_PATIENCE_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def wait_until_alone(address: str) -> None:
    """Return once a server has noticed that all its clients are gone: what they sent before counts as received.

    Connections are taken in the order in which they were made, so this one finds those of clients that ended before it.

    Raises:
        RuntimeError: a client stays.
    """
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=_PATIENCE_SECONDS)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        while True:
            connection.request("GET", CONNECTIONS)
            others = json.loads(connection.getresponse().read())["others"]
            if not others:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{others} connections to {address} stay open")
            time.sleep(0.002)
    finally:
        connection.close()


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
