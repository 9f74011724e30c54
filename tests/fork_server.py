"""Starts the tests' commands as forks of one process that has imported the large packages of others.

    python tests/fork_server.py FOLDER      listens at FOLDER/socket until its stdin ends; programs start by FOLDER/python

A process that imports torch, megatron-core, and what they bring takes seven seconds to start; half of the suite's time was
that. ``FOLDER/python`` stands in for Python (`tests/fork_client.py`): it hands its words, environment, folder and streams to
this process and ends as the fork ends. No module of this project and none that asks for its rank as it is imported is
imported here, and nothing runs here that starts a thread: what forks is in the state of a process that has just started.
``FOLDER/imported.json`` lists the modules that are.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import resource
import runpy
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOADED = (
    "hydra.main",
    "hydra._internal.hydra",
    "pydantic",
    "yaml",
    "numpy",
    "PIL.Image",
    "torch",
    "torch._dynamo",
    "torch.distributed.run",
    "torch.distributed.checkpoint",
    "scipy.signal",
    "fiddle",
    "libcst",
    "onnx",
    "sentencepiece",
    "webdataset",
    "torchmetrics",
    "transformers",
    "megatron.core",
    "megatron.core.models.gpt",
    "megatron.core.optimizer",
    "megatron.core.dist_checkpointing",
)
"""Packages of others, in the order in which a training imports them; Lightning and NeMo note their rank as they are imported."""

REBORN = "jemalloc_bg_thd"
"""Of Arrow's allocator, which starts it again in a fork."""

LOST_OUTPUT = 120
"""Python's exit code where what was written last can't be."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""

LIMITS = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]


@dataclass(frozen=True)
class Request:
    """What a client asks to be started: words after ``python``, environment, folder, and the state that `exec` would keep."""

    words: list[str]
    environment: dict[str, str]
    folder: str
    parent: int
    umask: int
    limits: list[tuple[int, int]]
    ignored: list[int]
    python: str
    path: list[str]


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """Read one request and its three streams; raise `OSError` where the client has gone."""
    streams = array.array("i")
    room = socket.CMSG_LEN(3 * streams.itemsize)
    head, ancillary, _, _ = connection.recvmsg(8, room)
    for _, _, data in ancillary:
        streams.frombytes(data)
    text, size = b"", int.from_bytes(head, "little")
    while not head or len(text) < size:  # nothing at all comes of one that was killed before its first word
        part = connection.recv(size - len(text)) if head else b""
        if not part:
            for stream in streams:
                os.close(stream)
            raise ConnectionError("the client has gone")
        text += part
    return Request(**json.loads(text)), list(streams)


class Server:
    """Forks for every connection and tells it how the fork ended; a connection that is lost ends its fork."""

    def __init__(self, folder: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "socket"))
        self.listener.listen(64)
        self.clients: dict[int, socket.socket] = {}
        self.woken, self.waker = os.pipe()
        for end in (self.woken, self.waker):
            os.set_blocking(end, False)

    def serve(self) -> Request | None:
        """Return in the fork what it shall run, and None in this process as soon as nobody needs it."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([0, self.woken, self.listener, *self.clients.values()], [], [])
            if self.woken in ready:
                os.read(self.woken, 4096)
            self._tell_ends()
            self._end_abandoned(ready)
            if 0 in ready:
                for pid in self.clients:
                    end_family(pid)
                return None
            if self.listener in ready and (request := self._accept()):
                return request

    def _accept(self) -> Request | None:
        connection, _ = self.listener.accept()
        try:
            request, streams = receive(connection)
        except OSError:
            connection.close()
            return None
        pid = os.fork()
        if pid == 0:
            self._leave(connection)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
        for stream in streams:
            os.close(stream)
        if pid == 0:
            return request
        self.clients[pid] = connection
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        return None

    def _leave(self, connection: socket.socket) -> None:
        """Let go of what is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in (connection, self.listener, *self.clients.values()):
            other.close()
        os.close(self.woken)
        os.close(self.waker)

    def _tell_ends(self) -> None:
        for pid in list(self.clients):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError), self.clients.pop(pid) as connection:
                    connection.sendall(json.dumps({"status": status}).encode() + b"\n")

    def _end_abandoned(self, ready: list[Any]) -> None:
        """A client says nothing after its request, so that what can be read is its end."""
        for pid, connection in list(self.clients.items()):
            if connection in ready:
                end_family(pid)
                os.waitpid(pid, 0)
                self.clients.pop(pid).close()


def end_family(pid: int) -> None:
    """Kill a process and what it has started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(pid)
        for member in [family, *family.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def become(request: Request, path: list[str]) -> None:
    """Give this fork the state that a new process would have."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # nobody would be told how it ends
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    os.umask(request.umask)
    for limit, values in zip(LIMITS, request.limits, strict=True):
        resource.setrlimit(limit, tuple(values))  # type: ignore[arg-type]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    os.getppid = lambda: request.parent
    sys.executable = sys._base_executable = request.python  # type: ignore[attr-defined]
    sys.path[:] = [*request.path, *path]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    importlib.invalidate_caches()
    random.seed()
    sys.modules["numpy"].random.seed()


def run_and_end(words: list[str]) -> None:
    """Run and end as Python does, but for taking apart what was imported: half a second, as that writes to all its pages."""
    code: Any = 0
    try:
        run(words)
    except SystemExit as error:
        if not isinstance(error.code, int | None):
            raise
        code = error.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = LOST_OUTPUT
    os._exit(code & 0xFF)


def run(words: list[str]) -> None:
    """What ``python WORDS`` does: run a file or a module as the main one."""
    if words[0] == "-u" or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
        sys.stderr.reconfigure(write_through=True)  # type: ignore[union-attr]
    words = words[1:] if words[0] == "-u" else words
    if words[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = words[1:]
        runpy._run_module_as_main(words[1])  # type: ignore[attr-defined]
        return
    sys.argv = words
    sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
    main = ModuleType("__main__")
    main.__dict__.update(__file__=words[0], __builtins__=__builtins__, __cached__=None, __annotations__={})
    main.__loader__ = SourceFileLoader("__main__", words[0])
    sys.modules["__main__"] = main
    exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), main.__dict__)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing is written to stderr meanwhile: packages warn of what is not installed."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def compose_once() -> None:
    """Hydra composes a command's settings twice, first to look for ``hydra.mode`` alone: none of ours has it, nor any test."""
    sys.modules["hydra._internal.hydra"].Hydra.get_mode = lambda *_, **__: None


def threads_of_others() -> list[str]:
    """Names of this process's threads beside the first."""
    numbers = [number for number in os.listdir("/proc/self/task") if int(number) != os.getpid()]
    return [Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in numbers]


def main(folder: Path) -> None:
    """Serve until stdin ends."""
    own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = [entry for entry in sys.path[1:] if entry not in own]
    with silent():
        for name in PRELOADED:
            importlib.import_module(name)
    compose_once()
    threads = [thread for thread in threads_of_others() if thread != REBORN]
    if threads:
        raise SystemExit(f"the imports have started threads, which a fork would lack: {', '.join(threads)}")
    gc.collect()
    gc.freeze()
    imported = sorted({name.partition(".")[0] for name in sys.modules})
    (folder / "imported.json").write_text(json.dumps(imported), encoding="utf-8")
    server = Server(folder)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    request = server.serve()
    if request is not None:
        become(request, path)
        run_and_end(request.words)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
