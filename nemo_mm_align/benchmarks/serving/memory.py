"""Memory of a server under load that has a bound: whether it grows once everything that is kept is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy

from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.serving.client import Client
from nemo_mm_align.benchmarks.serving.cores import Cores, on_core
from nemo_mm_align.benchmarks.serving.questions import Drawer
from nemo_mm_align.benchmarks.serving.server import Server, serving
from nemo_mm_align.core.units import MIB
from nemo_mm_align.model.config import LlavaConfig

_EVERY_SECONDS = 0.5
_LEFT_OUT = 60.0, 1 / 3
"""Seconds at the beginning, in which caches fill; of a shorter time, this share."""
_BOUND = "limits.kept_image_bytes=4194304"
"""Of pictures that the server keeps: full within seconds, so that it goes on decoding and forgetting them."""

Reading = tuple[float, int]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Read a server's resident memory while so many clients ask: questions of all kinds, ever new ones, some given up.

    There are so many pictures and no more: what is kept of each (embeddings, by their bytes) is soon complete.
    """
    config, work, seconds = LlavaConfig.from_dict(settings["sizes"]), settings["work"], 60 * settings["minutes"]
    cores = Cores.allowed()
    with (
        on_core(cores.client),
        serving(
            Path(settings["folder"]) / "policy",
            Path(settings["scratch"]),
            cores.server,
            f"slots={work['slots']}",
            _BOUND,
        ) as server,
    ):
        drawer = Drawer(config, work["question_words"], settings["seed"], work["pictures"])
        asker = Asker(Client(server.address), drawer, work["tokens"])
        readings = _under_load(server, asker, work["clients"], seconds)
    return {
        **growth(readings, seconds),
        "seconds": seconds,
        "questions": asker.questions,
        "clients": work["clients"],
        "readings": readings,
        "load_after": load_average(),
    }


class Asker:
    """Asks in several ways, turn by turn.

    Args:
        client: with which.
        drawer: of what is asked.
        tokens: of an answer.
    """

    def __init__(self, client: Client, drawer: Drawer, tokens: int) -> None:
        self._client, self._drawer, self._tokens, self._lock = client, drawer, tokens, threading.Lock()
        self._turn, self.questions = count(), 0

    def ask(self) -> None:
        """Ask once more; raise `Failed` where that fails."""
        ways: Sequence[Callable[[], int]] = (self._repeat, self._converse, self._stream, self._hang_up)
        with self._lock:
            turn = next(self._turn)
        asked = ways[turn % len(ways)]()
        with self._lock:
            self.questions += asked

    def _repeat(self) -> int:
        dialogues = self._draw("repeated")
        for one in dialogues:
            self._client.ask(one.messages([]), self._tokens)
        return len(dialogues)

    def _converse(self) -> int:
        (dialogue,) = self._draw("conversations")
        answers: list[str] = []
        for _ in dialogue.questions:
            answers.append(self._client.ask(dialogue.messages(answers), self._tokens, temperature=1.0))
        return len(answers)

    def _stream(self) -> int:
        (dialogue, *_) = self._draw("repeated")
        self._client.stream(dialogue.messages([]), self._tokens, temperature=1.0)
        return 1

    def _hang_up(self) -> int:
        (dialogue, *_) = self._draw("repeated")
        self._client.hang_up(dialogue.messages([]), self._tokens)
        return 1

    def _draw(self, kind: Any) -> Any:
        with self._lock:
            return self._drawer.dialogues(kind, 1)


def _under_load(server: Server, asker: Asker, clients: int, seconds: float) -> list[Reading]:
    """Return seconds and bytes; raise what a client met."""
    begin, readings = time.monotonic(), list[Reading]()

    def ask_until_end(_: int) -> None:
        while time.monotonic() < begin + seconds:
            asker.ask()

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask_until_end, number) for number in range(clients)]
        while not all(one.done() for one in asking):
            readings.append((time.monotonic() - begin, server.resident_bytes))
            time.sleep(_EVERY_SECONDS)
        for one in asking:
            one.result()
    return readings


def growth(readings: Sequence[Reading], seconds: float) -> dict[str, float]:
    """Return MiB a minute by least squares over what is not left out, and MiB at the beginning of that and at the end.

    Args:
        readings: seconds since the load began, and bytes.
        seconds: of load.
    """
    after = min(_LEFT_OUT[0], _LEFT_OUT[1] * seconds)
    minutes, sizes = zip(*((moment / 60, size / MIB) for moment, size in readings if moment >= after), strict=True)
    slope, _ = numpy.polyfit(minutes, sizes, 1)
    return {"mib_per_minute": float(slope), "left_out_s": after, "first_mib": sizes[0], "last_mib": sizes[-1]}
