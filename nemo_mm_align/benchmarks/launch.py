"""Starting one measurement in fresh processes and reading its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.repository import ROOT

LIMIT_SECONDS = 900
"""That a measurement may take."""


def measure(
    name: str,
    settings: Mapping[str, Any],
    threads: int | None = None,
    processes: int = 1,
    limit_s: float = LIMIT_SECONDS,
) -> dict[str, Any]:
    """Run ``worker NAME`` on the CPU, offline, and return its result.

    Args:
        settings: plain values for the measurement.
        threads: OMP_NUM_THREADS; ``None`` leaves the choice to torch.
        processes: more than one starts them with torchrun.
        limit_s: seconds that it may take.

    Raises:
        RuntimeError: the measurement failed; the message ends with its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, out = Path(scratch) / "settings.json", Path(scratch) / "result.json"
        given.write_text(json.dumps(dict(settings)), encoding="utf-8")
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        launcher = [sys.executable, *(torchrun if processes > 1 else [])]
        command = [*launcher, "-m", "nemo_mm_align.benchmarks.worker", name, str(given), str(out)]
        process = subprocess.run(
            command,
            cwd=ROOT,
            env=_environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
        )
        if process.returncode != 0:
            raise RuntimeError(f"measurement {name} of {dict(settings)} failed:\n{process.stdout[-4000:]}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return result


def _environment(threads: int | None) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables |= {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    return variables if threads is None else {**variables, "OMP_NUM_THREADS": str(threads)}
