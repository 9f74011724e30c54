"""Part ``labeling``: rate, cost of the client, limits, kills and scale of ``scripts/label.py`` against a local server."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.judge_server.process import ServerProcess, server_process
from nemo_mm_align.benchmarks.labeling_command import LabelCommand
from nemo_mm_align.benchmarks.labeling_inputs import write_inputs
from nemo_mm_align.benchmarks.labeling_kills import measure_kills
from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.file_state import SETTLED_S

logger = logging.getLogger(__name__)

MINUTE = 60.0
IMAGES = 200
"""Different pictures; every prompt has its own candidates."""


@contextmanager
def session(scratch: Path, prompts: int, images: int, delay_s: float) -> Iterator[tuple[LabelCommand, ServerProcess]]:
    """Write inputs into a folder of their own and start a server for them."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        write_inputs(folder, prompts, images)
        with server_process(folder / "server.jsonl", delay_s, allow_text=images == 0) as server:
            yield LabelCommand(folder, server.address), server


def measure_rate(settings: Mapping[str, Any], scratch: Path, images: bool, processes: int) -> dict[str, Any]:
    """Rate between the first arrival and the last reply, as a share of concurrency / delay, and the client's cost.

    The cost of a call is the difference between two processes, one that makes all calls and one that makes none. It says
    something only where it is large beside what the second one takes by itself, which varies.
    """
    count, delay = settings["image_prompts" if images else "text_prompts"], settings["delay_s"]
    pace = [f"runner.concurrency={settings['concurrency']}", f"runner.processes={processes}"]
    with session(scratch, count, IMAGES * images, delay) as (command, server):
        run = command.run(*pace)
        times = [request["time"] for request in server.requests()]
        again = command.run(*pace)  # asks nothing: what is left are start, input check and output
        if len(server.requests()) != count:
            raise RuntimeError(f"{len(server.requests())} requests for {count} prompts")
    rate = count / (max(times) + delay - min(times))
    return {
        "prompts": count,
        "images": images,
        "processes": processes,
        "rate": rate,
        "share": rate / (settings["concurrency"] / delay),
        "cpu_seconds": run.cpu_seconds,
        "cpu_seconds_without_calls": again.cpu_seconds,
        "cpu_seconds_per_call": (run.cpu_seconds - again.cpu_seconds) / count,
        "seconds": run.seconds,
        "seconds_without_calls": again.seconds,
        "load_after": load_average(),
    }


def measure_limit(settings: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Share of a limit of requests per minute that is used, and the most requests in any minute, as the server saw them."""
    limit, delay = settings["limit_per_minute"], settings["delay_s"]
    pace = [f"runner.concurrency={settings['concurrency']}", f"runner.requests_per_minute={limit}"]
    with session(scratch, settings["limit_prompts"], 0, delay) as (command, server):
        command.run(*pace)
        times = sorted(request["time"] for request in server.requests())
    rate = (len(times) - 1) / (times[-1] - times[0]) * MINUTE
    return {
        "limit": limit,
        "requests": len(times),
        "seconds": times[-1] - times[0],
        "share": rate / limit,
        "most_in_a_minute": most_in_window(times, MINUTE),
        "load_after": load_average(),
    }


def most_in_window(times: Sequence[float], seconds: float) -> int:
    """Return how many of the sorted `times` fall, at most, into a half-open window of so many seconds."""
    first, most = 0, 0
    for last, moment in enumerate(times):
        while moment - times[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def measure_scale(settings: Mapping[str, Any], scratch: Path, count: int) -> dict[str, Any]:
    """Memory of a run over `count` prompts, and the start of resumes that find all but the last one in the ledger.

    The first resume finds its input as it was checked by the run before, the second one has to check it again.
    """
    with session(scratch, count, 0, 0.0) as (command, server):
        time.sleep(SETTLED_S)  # files that were written a moment ago are not trusted to stay as they are
        run = command.run()
        ledger_bytes = command.ledger.stat().st_size
        resumed = _resume(command, server)
        command.ledger.with_suffix(".inputs").unlink()
        again = _resume(command, server)
        if len(server.requests()) != count + 2:
            raise RuntimeError(f"{len(server.requests())} requests for {count} prompts and two resumes")
    return {
        "prompts": count,
        "ledger_bytes": ledger_bytes,
        "seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
        "resume_peak_bytes": resumed["peak_bytes"],
        "resume_seconds": resumed["seconds"],
        "resume_with_check_seconds": again["seconds"],
        "load_after": load_average(),
    }


def _resume(command: LabelCommand, server: ServerProcess) -> dict[str, float]:
    """Drop the last line of the ledger and run again: seconds to the first request, most memory in bytes."""
    lines = command.ledger.read_bytes().splitlines(keepends=True)
    command.ledger.write_bytes(b"".join(lines[:-1]))
    run = command.run()
    return {"seconds": server.requests()[-1]["time"] - run.started, "peak_bytes": run.peak_bytes}


def measure_labeling(settings: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Run the measurements that `settings` name (the key ``labeling`` of conf/benchmark/size/*.yaml).

    Raises:
        UserError: an unknown measurement.
    """
    measures: dict[str, Callable[[], Any]] = {
        "text": lambda: [measure_rate(settings, scratch, False, number) for number in settings["processes"]],
        "images": lambda: [measure_rate(settings, scratch, True, number) for number in settings["processes"]],
        "limit": lambda: measure_limit(settings, scratch),
        "kills": lambda: _kills(settings, scratch),
        "scale": lambda: [measure_scale(settings, scratch, count) for count in settings["scale"]],
    }
    unknown = [name for name in settings["measures"] if name not in measures]
    if unknown:
        raise UserError(f"size.labeling.measures={unknown}: choose from {', '.join(measures)}.")
    found = {}
    for name in settings["measures"]:
        logger.info("labelling, %s", name)
        found[name] = measures[name]()
    return found


def _kills(settings: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    with session(scratch, settings["kill_prompts"], 0, settings["delay_s"]) as (command, server):
        found = measure_kills(command, server, settings["kills"], settings["concurrency"])
    return {**found, "load_after": load_average()}
