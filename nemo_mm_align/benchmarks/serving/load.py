"""Open-loop load: questions come when they come (Poisson), whether the earlier ones are answered or not."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy

from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.serving.client import Client, Failed, Streamed
from nemo_mm_align.benchmarks.serving.cores import Cores, on_core
from nemo_mm_align.benchmarks.serving.questions import Dialogue, Drawer
from nemo_mm_align.benchmarks.serving.server import serving
from nemo_mm_align.model.config import LlavaConfig

PERCENTILES = (50, 95, 99)
_MOST_AT_ONCE = 512


@dataclass(frozen=True)
class Asked:
    """A question on its way.

    Args:
        due: seconds of `time.monotonic` at which it was to be sent; latencies count from here.
        sent: at which it was.
        answer: what has become of it; None where it failed.
        fault: why, then.
    """

    due: float
    sent: float
    answer: Streamed | None
    fault: str | None = None


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure the capacity of a server with all its slots in use, then latencies at shares of it.

    Every question shows a picture of its own, so that nothing is reused but what all prompts begin with.
    """
    config, work = LlavaConfig.from_dict(settings["sizes"]), settings["work"]
    cores, drawer = Cores.allowed(), Drawer(config, work["question_words"], settings["seed"])
    source = Source(drawer, tuple(work["answer_tokens"]), settings["seed"])
    with (
        on_core(cores.client),
        serving(
            Path(settings["folder"]) / "policy", Path(settings["scratch"]), cores.server, f"slots={work['slots']}"
        ) as server,
    ):
        client = Client(server.address)
        closed_loop(client, source, work["slots"], work["capacity_s"] / 5)  # buffers and threads of both sides
        capacity = closed_loop(client, source, work["slots"], work["capacity_s"])
        levels = [
            {"share": share, **level(client, source, share * capacity, work["level_s"], settings["seed"])}
            for share in work["shares"]
        ]
    return {
        "capacity": capacity,
        "levels": levels,
        "slots": work["slots"],
        "shared_core": cores.shared,
        "load_after": load_average(),
    }


class Source:
    """Questions with the lengths of their answers, drawn between the least and the most; any thread may draw.

    Args:
        drawer: of questions and pictures.
        tokens: the least and the most of an answer.
        seed: of the lengths.
    """

    def __init__(self, drawer: Drawer, tokens: tuple[int, int], seed: int) -> None:
        self._drawer, self._tokens, self._random, self._lock = drawer, tokens, random.Random(seed), threading.Lock()

    def draw(self) -> tuple[Dialogue, int]:
        """Draw one."""
        with self._lock:
            dialogue = Dialogue(self._drawer.picture(), (self._drawer.question(),))
            return dialogue, self._random.randint(*self._tokens)


def ask(client: Client, dialogue: Dialogue, tokens: int, due: float | None = None) -> Asked:
    """Ask a question now, which was due then; None: now."""
    sent = time.monotonic()
    due = sent if due is None else due
    try:
        return Asked(due, sent, client.stream(dialogue.messages([]), tokens))
    except (Failed, OSError, HTTPException) as error:
        return Asked(due, sent, None, str(error) or type(error).__name__)


def closed_loop(client: Client, source: Source, clients: int, seconds: float) -> float:
    """Return questions answered a second where each of so many clients asks the next one once it has its answer.

    Raises:
        RuntimeError: a question failed.
    """
    begin = time.monotonic()
    end = begin + seconds

    def ask_until_end(_: int) -> list[Asked]:
        found = []
        while time.monotonic() < end:
            found.append(ask(client, *source.draw()))
        return found

    with ThreadPoolExecutor(clients) as pool:
        found = [asked for one in pool.map(ask_until_end, range(clients)) for asked in one]
    return rate(found, begin, end)


def rate(asked: Iterable[Asked], begin: float, end: float) -> float:
    """Return questions a second; one that was on its way at the end counts by the share of its time before that.

    Raises:
        RuntimeError: a question failed.
    """
    total = 0.0
    for one in asked:
        if one.answer is None:
            raise RuntimeError(f"a question failed: {one.fault}")
        total += min(1.0, (end - one.sent) / (one.answer.last - one.sent))
    return total / (end - begin)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Draw the times, in seconds, of a Poisson process of so many events a second."""
    drawn, times, now = random.Random(seed), list[float](), 0.0
    while (now := now + drawn.expovariate(rate)) < seconds:
        times.append(now)
    return times


def open_loop(client: Client, source: Source, times: Sequence[float]) -> list[Asked]:
    """Ask a question at each of these seconds from now on, whatever has become of the others."""
    questions = [source.draw() for _ in times]
    begin = time.monotonic()
    with ThreadPoolExecutor(_MOST_AT_ONCE) as pool:
        asked = []
        for due, question in zip(times, questions, strict=True):
            time.sleep(max(0.0, begin + due - time.monotonic()))
            asked.append(pool.submit(ask, client, *question, begin + due))
        return [one.result() for one in asked]


def level(client: Client, source: Source, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Return latencies, in seconds, at so many questions a second; failed ones are counted, with the first one's reason."""
    asked = open_loop(client, source, arrivals(rate, seconds, seed))
    answers = [(one, one.answer) for one in asked if one.answer is not None]
    faults = [one.fault for one in asked if one.answer is None]
    return {
        "asked_per_second": rate,
        "questions": len(asked),
        "failed": len(faults),
        "fault": faults[0] if faults else None,
        "first_token": percentiles([answer.first - one.due for one, answer in answers]),
        "per_token": percentiles([value for _, answer in answers if (value := answer.seconds_per_token) is not None]),
        "sent_late": max((one.sent - one.due for one in asked), default=0.0),
    }


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Return those that are reported, by name; None of nothing."""
    if not values:
        return None
    return {f"p{share}": float(numpy.percentile(values, share)) for share in PERCENTILES}
