"""Many random clients against one running server: none may break it, hang it, or change what another one is answered.

python tests/serving_fuzz.py --requests 10000 --seed 0
python tests/serving_fuzz.py --rater                 # of an attribute model
python tests/serving_fuzz.py --only 4711 --seed 0     # one client again, as its number names it
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.parallel import runtime
from tests.attribute_checkpoints import attribute_checkpoint
from tests.decoding_model import make_folder
from tests.fuzzed_traffic import CHAT, Shot, shot, unlimited_json
from tests.serving_process import KEY, ServingProcess, serving
from tests.unit.serving.toy_model import assistant, body, image_part, text_part, user
from tests.waiting import wait_until

logger = logging.getLogger(__name__)

LIMITS = ("name=toy", "max_waiting=28", "length=500", "readers=2", "limits.body_bytes=4000000", "limits.body_seconds=2",
          "limits.header_seconds=1", "limits.idle_seconds=1", "limits.keep_alive_seconds=1", "limits.image_bytes=1000000",
          "limits.image_pixels=2000000", "limits.kept_image_bytes=2000000")  # fmt: skip
SETTINGS = (*LIMITS, "template=vicuna_v1", "template.system=''", "attribute_schema=helpsteer", "scorer=oracle", "slots=4",
            "aliases={toy-short: {verbosity: 0}}", "kept=3", "max_new_tokens=16", "limits.max_tokens=64")  # fmt: skip
ASKED: tuple[dict[str, Any], ...] = (
    body(user("w5 w6 w7"), temperature=0, max_tokens=12),
    body(user([image_part("green"), text_part("w3 w9")]), temperature=0, max_tokens=12, attributes={"verbosity": 0}),
    body(user("w8 w2 w1"), temperature=1, seed=11, n=2, max_tokens=12),
)
"""Of a model that answers: greedy, steered with a picture, seeded."""
RATED = (
    body(user("w5 w6 w7"), assistant("w1 w3")),
    body(user([image_part("green"), text_part("w3 w9")]), assistant("w2 w3 w5")),
)
"""Of an attribute model."""
CLIENTS = 16
"""At a time."""
MOST_SECONDS = 120.0
"""For one client: beyond, the server hangs."""
REFUSED = (429, 503, 504)
"""Statuses of a server that is well and has too much to do."""
SETTLED_SECONDS = 30.0
"""After the last client, for connections to time out and idle threads to end."""
POOLED_THREADS = 4
"""Readers and scorers, two each as `SETTINGS` has it: a pool starts them when it first needs them, and keeps them."""
GROWTH_BYTES = 96 << 20
"""Of memory from the warmed-up server to the end: the allocator's pieces, not something for each request."""


@dataclass
class Found:
    """What came of all clients."""

    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    probes: int = 0
    seconds: float = 0.0
    memory: list[int] = field(default_factory=list)  # MiB, as it went on


@dataclass(frozen=True)
class Standing:
    """What a process holds."""

    threads: int
    files: int
    memory: int

    @classmethod
    def of(cls, process: psutil.Process) -> Standing:
        return cls(process.num_threads(), process.num_fds(), process.memory_info().rss)


def play(server: ServingProcess, one: Shot) -> bytes:
    """Be that client; return what the server said."""
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), MOST_SECONDS) as line:
        try:
            for place, part in enumerate(one.parts):
                time.sleep(0.02 * (place > 0))
                line.sendall(part)
            return _finish(line, one)
        except (BrokenPipeError, ConnectionResetError):  # the server had heard enough
            return b""


def _finish(line: socket.socket, one: Shot) -> bytes:
    if one.manner == "reset":
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if one.manner in ("reset", "close"):
        return b""
    if one.manner == "hang up":
        return line.recv(400)
    said = bytearray()
    while data := line.recv(64 if one.manner == "slow" else 65536):
        said += data
        time.sleep(0.01 * (one.manner == "slow"))
    return bytes(said)


def judge(said: bytes, found: Found, name: str) -> None:
    """Count the statuses of what a client was told, and note what it never should be."""
    statuses = re.findall(rb"^HTTP/1\.1 (\d{3}) ", said, re.MULTILINE)
    for status in map(int, statuses):
        found.statuses[str(status)] += 1
        if status >= 500 and status not in REFUSED:
            found.faults.append(f"{name}: status {status}: {said[-300:]!r}")
    if not statuses:
        found.statuses["no answer" if not said else "no status"] += 1
    if re.search(rb'"code": ?"(internal_error|engine_failed)"', said):
        found.faults.append(f"{name}: {said[-300:]!r}")


class Probe:
    """Asks the same questions all the time, and whether the server is well."""

    def __init__(self, server: ServingProcess, bodies: Sequence[dict[str, Any]]) -> None:
        self._server, self._bodies = server, bodies
        self._known = [self._ask(one) for one in self._bodies]
        assert len({str(known) for known in self._known}) == len(self._known)

    def _ask(self, asked: dict[str, Any]) -> Any:
        while True:
            reply = requests.post(
                self._server.address + CHAT,
                json=asked,
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=MOST_SECONDS,
            )
            if reply.status_code != 429:
                break
            time.sleep(0.2)
        found = reply.json()
        return (
            [(_rounded(one["message"]["content"]), one["attributes"]) for one in found["choices"]]
            if reply.ok
            else found
        )

    def look(self) -> list[str]:
        """Return what has changed, which is nothing."""
        health = self._server.get("/health")
        faults = [] if health.ok else [f"/health: {health.status_code}"]
        for asked, known in zip(self._bodies, self._known, strict=True):
            answer = self._ask(asked)
            if answer != known:
                faults.append(f"the answer to {json.dumps(asked)[:200]} was {known} and is {answer}")
        return faults


def _rounded(text: str) -> str:
    """Numbers of a rating with four digits: what it shares a batch with may move the last of them."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda found: f"{float(found[0]):.4f}", text)


@contextmanager
def _probing(probe: Probe, found: Found) -> Iterator[None]:
    end = threading.Event()

    def run() -> None:
        while not end.wait(0.2):
            try:
                found.faults += probe.look()
            except requests.RequestException as error:
                found.faults.append(f"the probe: {error}")
            found.probes += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def fuzz(
    server: ServingProcess,
    seed: int,
    numbers: Sequence[int],
    warm: int = 100,
    asked: Sequence[dict[str, Any]] = ASKED,
) -> Found:
    """Send the clients of these numbers, several at a time; return what came of them.

    Args:
        asked: questions whose answers must not change.
        warm: further clients before them, after which memory, threads and files are taken to be what the server needs.
    """
    probe, process = Probe(server, asked), psutil.Process(server.process.pid)
    with unlimited_json(), ThreadPoolExecutor(CLIENTS) as pool:
        found = Found()

        def client(number: int) -> None:
            one = shot(seed, number)
            name = f"client {number} ({one.kind})"
            try:
                judge(play(server, one), found, name)
            except TimeoutError:
                found.faults.append(f"{name}: hangs")
            except OSError as error:
                found.faults.append(f"{name}: {error}")
            if number % 500 == 0:
                found.memory.append(process.memory_info().rss >> 20)

        list(pool.map(client, range(-warm, 0)))
        _settle(server)
        before, started, found.statuses = Standing.of(process), time.monotonic(), Counter()
        with _probing(probe, found):
            for begin in range(0, len(numbers), 500):
                list(pool.map(client, numbers[begin : begin + 500]))
                logger.info("%d clients: %s, %d faults", begin + 500, dict(found.statuses), len(found.faults))
                if server.process.poll() is not None:
                    found.faults.append(f"the server has ended with {server.process.poll()}")
                    break
        found.seconds = time.monotonic() - started
    found.faults += [*probe.look(), *_left(server, process, before)]
    return found


def _settle(server: ServingProcess) -> None:
    wait_until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0)


def _left(server: ServingProcess, process: psutil.Process, before: Standing) -> list[str]:
    """What clients have left behind."""
    _settle(server)
    deadline = time.monotonic() + SETTLED_SECONDS
    while (now := Standing.of(process)).threads > before.threads + POOLED_THREADS or now.files > before.files:
        if time.monotonic() > deadline:
            return [f"{before.threads} threads and {before.files} files have become {now.threads} and {now.files}"]
        time.sleep(0.1)
    faults = [] if server.metric("kv_cache_usage_perc") == 0 else ["slots are taken that nobody lies in"]
    grown = Standing.of(process).memory - before.memory
    if grown > GROWTH_BYTES:
        faults.append(f"memory has grown by {grown >> 20} MiB")
    faults += [
        f"the log: {line}" for line in server.said.splitlines() if re.search("Traceback|a fault of the server", line)
    ]
    return faults


def _rater(folder: Path) -> Path:
    """Write an attribute model of the same base."""
    runtime.initialize(ParallelConfig(), seed=1)
    attribute_checkpoint(folder / "run", folder / "model", "last")
    runtime.shutdown()
    return folder / "run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rater", action="store_true", help="of an attribute model, not of one that answers")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of clients")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_folder(folder / "model")
        words = [f"checkpoint={_rater(folder)}", *LIMITS] if given.rater else [f"checkpoint={folder}/model", *SETTINGS]
        with serving(folder, *words) as server:
            numbers = given.only or range(given.requests)
            found = fuzz(server, given.seed, numbers, asked=RATED if given.rater else ASKED)
        log = (folder / "server.log").read_text(errors="replace")
    logger.info("%s, %d probes, %.0f s, memory %s MiB", dict(found.statuses), found.probes, found.seconds, found.memory)
    for fault in found.faults[:50]:
        logger.error("%s", fault)
    if found.faults:
        logger.error("%s", log[-5000:])
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
