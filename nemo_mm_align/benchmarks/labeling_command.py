"""``scripts/label.py`` as a process of its own: its time, processor time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from nemo_mm_align.benchmarks.dying_label import SCRIPT
from nemo_mm_align.benchmarks.machine import peak_resident_bytes
from nemo_mm_align.core.repository import ROOT
from nemo_mm_align.labeling.provenance import default_ledger

KEY = "benchmark-key-0123456789"
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Finished:
    """A run that has ended: exit code, its start (monotonic), wall and processor seconds, most memory of its process."""

    code: int
    started: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class LabelCommand:
    """The command in a folder with inputs, against a server; output goes to ``output.txt``."""

    folder: Path
    address: str

    def arguments(self, *overrides: str) -> list[str]:
        """Return the overrides of a run."""
        paths = ["prompts=prompts.jsonl", "candidates=candidates.jsonl", "out=annotations.jsonl"]
        return [*paths, "judge=gemini", f"judge.api_endpoint={self.address}", *overrides]

    @property
    def ledger(self) -> Path:
        """The file of all attempts."""
        return default_ledger(self.folder / "annotations.jsonl")

    @property
    def output(self) -> Path:
        """What the runs said."""
        return self.folder / "output.txt"

    def environment(self) -> dict[str, str]:
        """Return the variables of a run."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return {**os.environ, "PYTHONPATH": path, "GEMINI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """Start a run."""
        command = [sys.executable, str(SCRIPT), *self.arguments(*overrides)]
        with self.output.open("ab") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=output, stderr=subprocess.STDOUT
            )

    def run(self, *overrides: str) -> Finished:
        """Run to the end; raise `RuntimeError` with the end of its output where it fails."""
        started, peak = time.monotonic(), 0
        process = self.start(*overrides)
        while True:
            # Not from the usage below: that would begin with the memory of this process, of which it is a copy.
            peak = max(peak, peak_resident_bytes(str(process.pid)))
            child, status, usage = os.wait4(process.pid, os.WNOHANG)
            if child:
                break
            time.sleep(_POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"label ended with {process.returncode}:\n{self.output.read_text()[-2000:]}")
        seconds = time.monotonic() - started
        return Finished(process.returncode, started, seconds, usage.ru_utime + usage.ru_stime, peak)
