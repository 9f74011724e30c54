"""`scripts/serve.py` as a process, the way a user starts it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import requests

from tests.distributed import REPOSITORY, free_port
from tests.waiting import wait_until

KEY = "the-key-of-the-tests"


@dataclass
class ServingProcess:
    """A server that answers.

    Args:
        process: itself, or its launcher.
        log: what it says.
        address: as the log names it.
    """

    process: subprocess.Popen[bytes]
    log: Path
    address: str

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def client(self, retries: int = 0) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=KEY, max_retries=retries, timeout=120)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.address + path, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """Return a figure of ``/metrics``; 0 where it is not there yet."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(f"nemo_mm_align_{name}{{") and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                return float(line.rpartition(" ")[2])
        return 0.0

    def ask_to_end(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def serving(folder: Path, *words: str, ranks: int = 1, locked: bool = True) -> Iterator[ServingProcess]:
    """Start a server with these settings on a free port, and wait until it answers; it wants a key where it is locked."""
    log = folder / "server.log"
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    more = ["port=0", *(["api_key_variable=SERVER_KEY"] if locked else [])]
    command = [sys.executable, *(launcher if ranks > 1 else []), str(REPOSITORY / "scripts/serve.py"), *words, *more]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "SERVER_KEY": KEY}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=file)
    try:
        found = ServingProcess(process, log, "")
        wait_until(lambda: re.search(r"serving \S+ at \S+", found.said), lambda: _ended(found))
        match = re.search(r"serving \S+ at (\S+)", found.said)
        assert match
        found.address = match[1]
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _ended(found: ServingProcess) -> str | None:
    code: Any = found.process.poll()
    return None if code is None else f"the server has ended with {code}: {found.said[-3000:]}"
