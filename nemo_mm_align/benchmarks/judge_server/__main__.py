"""``python -m nemo_mm_align.benchmarks.judge_server '{"log": ..., "delay": 0.2, "plan": {...}}'``: prints its address.

It ends with its standard input, so that none is left behind by a parent that was killed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.judge_server.faults import FaultPlan
from nemo_mm_align.benchmarks.judge_server.server import JudgeServer


def read_plan(values: dict[str, Any]) -> FaultPlan:
    """Return the plan of a JSON object, whose keys are texts."""
    schedule = {int(number): name for number, name in values.pop("schedule", {}).items()}
    return FaultPlan(schedule=schedule, **{**values, "names": tuple(values.get("names", FaultPlan.names))})


async def serve(settings: dict[str, Any]) -> None:
    """Serve until standard input ends."""
    with Path(settings["log"]).open("a", encoding="utf-8") as log:
        server = JudgeServer(read_plan(settings["plan"]), settings["delay"], log, settings["allow_text"])
        await server.start()
        gc.freeze()
        sys.stdout.write(server.address + "\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
