"""Step ``tests``: tests/gpu, FP8 and the rest side by side, each in a process and on a port of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nemo_mm_align.benchmarks.gpu import clock, junit
from nemo_mm_align.benchmarks.gpu.records import Context, Skipped
from nemo_mm_align.benchmarks.machine import kill_tree
from nemo_mm_align.core.repository import ROOT

_PARTS = {"tests_bf16": "not fp8 and not delayed and not two_gpus", "tests_fp8": "fp8 or delayed"}
_TO_WRITE_S = 5.0
"""Kept of the step's time to say what happened."""


def measure(context: Context) -> None:
    """Run both halves; record passed, failed and skipped tests, and the first failures' messages."""
    try:
        _check()
    except Skipped as reason:
        context.recorder.failed("tests/gpu", reason)
        return
    end = time.monotonic() + context.seconds - _TO_WRITE_S
    processes = {name: _start(name, chosen, context.out) for name, chosen in _PARTS.items()}
    for name, process in processes.items():
        context.recorder.write(name, **_outcome(process, end, context.out / f"{name}.xml"))
        print((context.out / f"{name}.log").read_text(encoding="utf-8", errors="replace"), flush=True)
        (context.out / f"{name}.log").unlink()


def _check() -> None:
    if not (ROOT / "tests" / "gpu").is_dir():
        raise Skipped("no folder tests beside the package")
    if not clock.cuda():
        raise Skipped("the tests need a GPU")


def _start(name: str, chosen: str, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rf", "--tb=short", "--durations=8"]
    command += ["-p", "no:cacheprovider", "-k", chosen, f"--junitxml={(out / name).absolute()}.xml"]
    variables = os.environ | {
        "MASTER_PORT": str(_free_port()),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins of the machine's own pytest need not fit this one
        "OMP_NUM_THREADS": "4",
    }
    with (out / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _outcome(process: subprocess.Popen[bytes], end: float, report: Path) -> dict[str, Any]:
    try:
        code = process.wait(timeout=max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        kill_tree(process)  # what it has started would keep the GPU's memory
        return {"error": "not finished within the step's time"}
    return {"exit_code": code, **junit.counts(report)}
