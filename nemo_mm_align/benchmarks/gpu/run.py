"""The plan carried out: every step in a process of its own, within its limit and the budget; a table at the end."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from nemo_mm_align.benchmarks.gpu import facts, plan, records, table
from nemo_mm_align.benchmarks.gpu.options import Options
from nemo_mm_align.benchmarks.gpu.plan import Step
from nemo_mm_align.core.atomic import write_text
from nemo_mm_align.core.repository import ROOT

logger = logging.getLogger(__name__)

LOG, TABLE = "log.txt", "gpu.md"
_ENVIRONMENT = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
    "NVTE_FRAMEWORK": "pytorch",
}


def run(options: Options, command: str) -> str:
    """Carry the plan out and return the table, which is in ``out`` as well.

    Args:
        command: as typed, for the results.

    Raises:
        UserError: an unknown step.
    """
    steps = plan.choose(options.steps, options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    started, found = time.monotonic(), facts.describe(command)
    try:
        for step in steps:
            _carry_out(step, options, found, options.budget_s - (time.monotonic() - started))
            text = _write_table(options.out, found["run"])  # after each: a run that is cut off has one too
    finally:
        text = _write_table(options.out, found["run"])
    return text


def _write_table(out: Path, run_id: str) -> str:
    text = table.markdown(records.read(out / records.FILE, run_id))
    write_text(out / TABLE, text)
    return text


def _carry_out(step: Step, options: Options, found: dict[str, Any], left: float) -> None:
    line = {**found, "step": step.name, "kind": "step", "name": step.what}
    limit = left if options.size == "toy" else step.limit_s  # how fast a CPU is says nothing
    seconds = plan.granted(limit, left)
    if seconds is None:
        records.append(options.out / records.FILE, {**line, "skipped": f"{max(left, 0):.0f} s of the budget were left"})
        return
    logger.info("%s: %s, at most %.0f s", step.name, step.what, seconds)
    size = options.size if step.size is None or options.size == "toy" else step.size
    settings = {"step": step.name, "size": size, "out": str(options.out.absolute()), "seconds": seconds, "facts": found}
    start = time.monotonic()
    with (options.out / LOG).open("ab") as log:
        log.write(f"######## {step.name}\n".encode())
        log.flush()
        code = _run_child(settings, seconds, log)
    taken = time.monotonic() - start
    ended = {"error": f"killed after {taken:.0f} s"} if code is None else {"exit_code": code}
    records.append(options.out / records.FILE, {**line, **ended, "seconds": round(taken, 1), "limit_s": seconds})
    logger.info("%s: %s after %.0f s", step.name, "killed" if code is None else f"exit code {code}", taken)


def _run_child(settings: dict[str, Any], seconds: float, log: IO[bytes]) -> int | None:
    """Exit code of a step's process; ``None`` where it had to be killed, with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nemo_mm_align.benchmarks.gpu.child", json.dumps(settings)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def environment() -> dict[str, str]:
    """Variables of a step's process: what the user has set stays."""
    libraries, headers = _nvidia_folders()
    joined = {"PYTHONPATH": [str(ROOT)], "LD_LIBRARY_PATH": libraries}
    paths = {
        name: os.pathsep.join(filter(None, [*before, os.environ.get(name)]))
        for name, before in joined.items()
        if before
    }
    return _ENVIRONMENT | headers | os.environ | paths


def _nvidia_folders() -> tuple[list[str], dict[str, str]]:
    """Where TransformerEngine's wheel finds the CUDA libraries and headers that torch's wheels bring along."""
    spec = importlib.util.find_spec("torch")
    nvidia = Path(spec.origin).parents[1] / "nvidia" if spec and spec.origin else None
    if nvidia is None or not nvidia.is_dir():
        return [], {}
    folders = [str(path) for path in sorted(nvidia.glob("*/lib"))]
    headers = [path for path in (Path("/usr/local/cuda/include"), *nvidia.glob("cu*/include")) if path.is_dir()]
    return folders, {"NVTE_CUDA_INCLUDE_DIR": str(headers[0])} if headers else {}
