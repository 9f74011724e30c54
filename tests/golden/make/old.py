"""Running the entry points of another checkout: the one that goldens are made by."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

COMMIT = "1a72c78"
FLOAT64 = Path(__file__).resolve().parents[2] / "float64.py"

INSTRUCTIONS = {
    "no vector instructions": {
        "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
    },
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "AVX512": {
        "ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512", "MKL_CBWR": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    },
}  # fmt: skip
"""Instead of what torch, MKL and oneDNN choose by the kind of CPU."""


def instruct(name: str | None) -> None:
    """Let later processes compute with these instructions; None: with what the CPU has."""
    for variable in {variable for variables in INSTRUCTIONS.values() for variable in variables}:
        os.environ.pop(variable, None)
    os.environ.update(INSTRUCTIONS[name] if name else {})


def environment(checkout: Path) -> dict[str, str]:
    """Variables of a process whose `nemo_mm_align` is the checkout's."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), *others]), "OMP_NUM_THREADS": "1"}


def command(checkout: Path, script: str, words: list[str], ranks: int = 1, exact: bool = False) -> list[str]:
    """Return the command line of a script of the checkout, under torchrun where there are several ranks.

    Args:
        exact: in float64, see `tests.float64`.
    """
    launcher = []
    if ranks > 1:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}"]
    outer = [str(FLOAT64)] if exact else []
    return [sys.executable, *launcher, *outer, str(checkout / "scripts" / script), *words]


def run(
    checkout: Path,
    script: str,
    words: list[str],
    ranks: int = 1,
    folder: Path | None = None,
    code: int = 0,
    exact: bool = False,
) -> str:
    """Run a script to its end in a folder; return all that it said.

    Raises:
        SystemExit: with its output, where it ended with another exit code.
    """
    done = subprocess.run(
        command(checkout, script, words, ranks, exact),
        cwd=folder,
        env=environment(checkout),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != code:
        raise SystemExit(f"{script} {words}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-8000:]}")
    return done.stdout + done.stderr
