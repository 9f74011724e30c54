"""One step in a process of its own: ``python -m nemo_mm_align.benchmarks.gpu.child SETTINGS``, as `run` starts it."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.gpu.plan import STEPS
from nemo_mm_align.benchmarks.gpu.records import FILE, Context, Recorder

_TO_END_S = 5.0
"""Cases end this much before the process would be killed."""


def measure(settings: dict[str, Any]) -> None:
    """Run a step; `settings` are what `run` writes: step, size, out, seconds, facts."""
    step = next(step for step in STEPS if step.name == settings["step"])
    out, seconds = Path(settings["out"]), settings["seconds"]
    facts = {**settings["facts"], "step": step.name, "card": _card() or settings["facts"]["card"]}
    recorder = Recorder(out / FILE, facts, time.monotonic() + seconds - _TO_END_S)
    module = importlib.import_module(f"nemo_mm_align.benchmarks.gpu.{step.module}")
    module.measure(Context(settings["size"], recorder, out, seconds))


def _card() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def main() -> None:
    """Measure, then take the process groups down."""
    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore")
    measure(json.loads(sys.argv[1]))
    if "nemo_mm_align.parallel.runtime" in sys.modules:
        from nemo_mm_align.parallel import runtime

        runtime.shutdown()


if __name__ == "__main__":
    main()
