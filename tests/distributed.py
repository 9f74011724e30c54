"""Run a script or module in several processes, the way a user does, and show every rank's output on failure."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.waiting import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parent.parent


class DistributedError(AssertionError):
    """The run failed; the message holds each rank's output."""


_reserved: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port that nobody listens on, and that the system gives to nobody as long as this process lives.

    A port that is merely let go of again may be anybody's before the rank that is told its number comes to listen there:
    of a test beside this one, or of an outgoing connection. A rendezvous reuses addresses and may have it all the same.
    """
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", 0))
    _reserved.append(server)
    return server.getsockname()[1]


def run_distributed(
    target: str | Path,
    nproc: int,
    *arguments: object,
    timeout: float = PATIENCE_S,
    environment: dict[str, str] | None = None,
) -> str:
    """Run `target` under torchrun on this machine and return the output of all ranks, stdout and stderr, rank by rank.

    Args:
        target: a file (``tests/parallel/worker.py``) or a module in dotted form (``tests.parallel.worker``).
        nproc: number of processes.
        arguments: handed to every process as text.
        timeout: seconds; afterwards all processes are killed.
        environment: variables to add to this process's.

    Raises:
        DistributedError: a rank failed, or the time ran out.
    """
    is_file = str(target).endswith(".py")
    with tempfile.TemporaryDirectory(prefix="ranks-") as logs:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc)]
        command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--log-dir", logs]
        command += ["--redirects", "3"] + ([] if is_file else ["--module"]) + [str(target), *map(str, arguments)]
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        variables = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=variables,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            launcher, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise DistributedError(f"no end after {timeout:g} s: {' '.join(command)}\n{_outputs(logs)}") from None
        finally:
            _kill_group(process)
        if process.returncode != 0:
            summary = f"exit code {process.returncode}: {' '.join(command)}"
            raise DistributedError(f"{summary}\n{_outputs(logs)}\n--- launcher\n{launcher[-3000:]}")
        return _outputs(logs)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """End what is left of our own processes; torchrun starts each rank in a session of its own, so ask it first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=35)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _outputs(logs: str) -> str:
    parts = []
    for path in sorted(Path(logs).rglob("std*.log"), key=lambda path: (int(path.parent.name), path.name)):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.strip():
            parts.append(f"--- rank {path.parent.name} {path.stem}\n" + re.sub(r"[^\n]*\r(?!\n)", "", text))
    return "\n".join(parts)
