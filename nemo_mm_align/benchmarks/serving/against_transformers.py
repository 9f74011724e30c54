"""Answers through the server against transformers' generate: the same dialogues and weights, one core for either."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.serving.client import Client
from nemo_mm_align.benchmarks.serving.cores import Cores, on_core, processor_seconds
from nemo_mm_align.benchmarks.serving.peer import Peer
from nemo_mm_align.benchmarks.serving.questions import KINDS, Dialogue, Drawer, Kind
from nemo_mm_align.benchmarks.serving.server import Server, serving
from nemo_mm_align.benchmarks.timing import Timing, speedup
from nemo_mm_align.model.config import LlavaConfig

TIE = 1e-4
"""Distance of two logits below which float32's rounding chooses between them."""
Said = list[list[str]]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Ask both sides every kind of dialogue, so many at a time, in the order A/B/B/A with new dialogues in every round.

    What the peer gets ready-made (token ids, pixels) the server has to make of what comes over HTTP.
    """
    config, folder, work = (
        LlavaConfig.from_dict(settings["sizes"]),
        Path(settings["folder"]) / "policy",
        settings["work"],
    )
    cores, drawer = Cores.allowed(), Drawer(config, work["question_words"], settings["seed"])
    cases = [(kind, at_a_time) for kind in KINDS for at_a_time in work[kind]]
    with on_core(cores.client):
        peer = Peer(folder)
        with serving(folder, Path(settings["scratch"]), cores.server) as server:
            sides = Sides(peer, server, cores, work["new_tokens"])
            sides.run(drawer.dialogues("repeated", 2), 2)  # neither allocates or compiles for the first time below
            found = [_case(sides, drawer, kind, at_a_time, work["rounds"]) for kind, at_a_time in cases]
    return {"cases": found, "new_tokens": work["new_tokens"], "shared_core": cores.shared, "load_after": load_average()}


class Sides:
    """Both of them, each measured on the server's core.

    Args:
        peer, server: the sides.
        cores: of both, and of the client.
        new_tokens: of an answer.
    """

    def __init__(self, peer: Peer, server: Server, cores: Cores, new_tokens: int) -> None:
        self.peer, self._server, self._cores, self.new_tokens = peer, server, cores, new_tokens
        self._client = Client(server.address)

    def run(self, dialogues: Sequence[Dialogue], at_a_time: int, ours_first: bool = False) -> dict[str, Any]:
        """Return answers, seconds on the clock and of the processor, of both sides."""
        self.peer.prepare(dialogues)
        ways = {"transformers": self._ask_peer, "ours": self._ask_server}
        found = {name: ways[name](dialogues, at_a_time) for name in (list(ways)[::-1] if ours_first else ways)}
        return {name: dict(zip(("said", "seconds", "cpu"), found[name], strict=True)) for name in ways}

    def _ask_peer(self, dialogues: Sequence[Dialogue], at_a_time: int) -> tuple[Said, float, float]:
        with on_core(self._cores.server):
            return _timed(lambda: self.peer.answer(dialogues, at_a_time, self.new_tokens), time.thread_time)

    def _ask_server(self, dialogues: Sequence[Dialogue], at_a_time: int) -> tuple[Said, float, float]:
        def converse(dialogue: Dialogue) -> list[str]:
            answers: list[str] = []
            for _ in dialogue.questions:
                answers.append(self._client.ask(dialogue.messages(answers), self.new_tokens).strip())
            return answers

        with ThreadPoolExecutor(at_a_time) as clients:
            return _timed(
                lambda: list(clients.map(converse, dialogues)), lambda: processor_seconds(self._server.process)
            )


def _timed(work: Callable[[], Said], processor: Callable[[], float]) -> tuple[Said, float, float]:
    start, before = time.perf_counter(), processor()
    said = work()
    return said, time.perf_counter() - start, processor() - before


def _case(sides: Sides, drawer: Drawer, kind: Kind, at_a_time: int, rounds: int) -> dict[str, Any]:
    taken: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "cpu": []} for name in ("transformers", "ours")}
    ties = answers = 0
    for number in range(rounds):
        dialogues = drawer.dialogues(kind, at_a_time)
        found = sides.run(dialogues, at_a_time, ours_first=number % 2 == 1)
        ties += tied(sides.peer, dialogues, found["transformers"]["said"], found["ours"]["said"], sides.new_tokens)
        answers = sum(len(one.questions) for one in dialogues)
        for name, clocks in taken.items():
            for clock, values in clocks.items():
                values.append(found[name][clock])
    timings = {
        name: {clock: Timing(tuple(values)) for clock, values in clocks.items()} for name, clocks in taken.items()
    }
    return {
        "kind": kind,
        "at_a_time": at_a_time,
        "answers": answers,
        "ties": ties,
        **{clock: {name: of[clock].seconds for name, of in timings.items()} for clock in ("seconds", "cpu")},
        "tokens_per_second": {name: answers * sides.new_tokens / of["seconds"].median for name, of in timings.items()},
        "speedup": speedup(timings["transformers"]["seconds"], timings["ours"]["seconds"]),
        "cpu_speedup": speedup(timings["transformers"]["cpu"], timings["ours"]["cpu"]),
    }


def tied(peer: Peer, dialogues: Sequence[Dialogue], theirs: Said, ours: Said, new_tokens: int) -> int:
    """Return how many dialogues differ because two tokens were as good; raise `RuntimeError` where one differs otherwise."""
    differing = [place for place, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]]
    for place in differing:
        turn = next(
            turn for turn, pair in enumerate(zip(theirs[place], ours[place], strict=True)) if pair[0] != pair[1]
        )
        margin = peer.closest_choice(dialogues[place], theirs[place], turn, new_tokens)
        if margin > TIE:
            raise RuntimeError(
                f"the answers differ, and no two logits of transformers' are closer than {margin:.2g}: "
                f"{theirs[place][turn]!r} and {ours[place][turn]!r}"
            )
    return len(differing)
