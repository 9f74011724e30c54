"""A labelling run killed again and again, and what that cost by the server's own account."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from nemo_mm_align.benchmarks.dying_label import Death, LabelStarter, label_starter
from nemo_mm_align.benchmarks.judge_server.process import ServerProcess, wait_until_alone
from nemo_mm_align.benchmarks.labeling_command import LabelCommand
from nemo_mm_align.benchmarks.labeling_inputs import questions

_PATIENCE_SECONDS = 600.0


def measure_kills(command: LabelCommand, server: ServerProcess, kills: int, concurrency: int) -> dict[str, Any]:
    """Label all prompts with `kills` kills on the way; count what was lost and what was paid twice.

    Two kills hit a chosen moment: between a reply and its line, and inside the write of a line; the others are random.

    Raises:
        RuntimeError: the ledger was not readable after a kill, or a run did not go on.
    """
    by_prompt = questions(command.folder)
    exact: dict[int, Death] = {kills // 3: "before_line", 2 * kills // 3: "torn_line"}
    rng, lost, most, starts = random.Random(0), Counter[str](), 0, list[float]()
    pace = f"runner.concurrency={concurrency}"
    begun = time.monotonic()
    with label_starter(command.folder, command.environment()) as starter:
        for number in range(kills):
            before = len(server.requests())
            calls = rng.randint(1, 2 * (len(by_prompt) - before) // (kills - number + 1))
            if death := exact.get(number):
                _die(starter, command.arguments(pace), death, calls)
            else:
                starts.append(_kill(command, server, pace, before + calls, rng))
            wait_until_alone(server.address)
            paid = {request["question"] for request in server.requests()[before:]}
            in_flight = paid - {by_prompt[name] for name in known_prompts(command)}
            most = max(most, len(in_flight))
            lost.update(in_flight)
    last = command.run(pace)
    paid_for = Counter(request["question"] for request in server.requests())
    found = known_prompts(command)
    with (command.folder / "annotations.jsonl").open("rb") as file:
        annotations = sum(1 for _ in file)
    return {
        "prompts": len(by_prompt),
        "kills": kills,
        "annotations": annotations,
        "missing": len(by_prompt) - len(set(found)),
        "requests": paid_for.total(),
        "in_flight_at_kills": lost.total(),
        "most_in_flight_at_a_kill": most,
        "paid_twice_beyond": sum(count - 1 - lost[question] for question, count in paid_for.items()),
        "lines_twice": len(found) - len(set(found)),
        "torn_lines": command.output.read_text().count("dropped a torn last line"),
        "start_seconds": statistics.median(starts),
        "last_run_seconds": last.seconds,
        "seconds": time.monotonic() - begun,
    }


def known_prompts(command: LabelCommand) -> list[str]:
    """Return the prompts with a judgement, in the order of the ledger, whose last line may be torn.

    Raises:
        RuntimeError: another line is not readable.
    """
    lines = command.ledger.read_bytes().split(b"\n") if command.ledger.exists() else []
    found = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            value = json.loads(line)
        except ValueError:
            raise RuntimeError(f"line {number} of the ledger is not readable after a kill: {line[:80]!r}") from None
        if value.get("status") == "ok":
            found.append(value["prompt_id"])
    return found


def _die(starter: LabelStarter, arguments: list[str], death: Death, at: int) -> None:
    starter.start(arguments, death, at)
    code = starter.wait()
    if code != -(signal.SIGXFSZ if death == "torn_line" else signal.SIGKILL):
        raise RuntimeError(f"the run that should have died ({death}) ended with {code}")


def _kill(command: LabelCommand, server: ServerProcess, pace: str, count: int, rng: random.Random) -> float:
    """Kill a run some moment after the server has seen request `count`; return the seconds that it took to ask the first."""
    before, started = len(server.requests()), time.monotonic()
    process = command.start(pace)
    try:
        _wait(lambda: len(server.requests()) > before or process.poll() is not None)
        asked = time.monotonic() - started
        _wait(lambda: len(server.requests()) >= count or process.poll() is not None)
        time.sleep(rng.uniform(0, 0.2))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        code = process.wait()
    if code != -signal.SIGKILL:
        raise RuntimeError(f"label ended with {code} before it was killed:\n{command.output.read_text()[-2000:]}")
    return asked


def _wait(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not reached():
        if time.monotonic() > deadline:
            raise RuntimeError("the run does not go on")
        time.sleep(0.02)
