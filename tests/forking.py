"""Have the commands that tests start begin as forks of a process that has the large packages imported; see `fork_server.py`.

A module of tests in `FORKED` has `sys.executable` changed for its time, in the commands as well, so that torchrun's ranks and
what a command starts are forks too. Modules about how processes start, die, or use memory are not among them, and
`REAL_PYTHON` is for one command. Calls with ``-c``, modules outside of `SERVED`, inherited files, and other values of variables
that imports look at (`FOREIGN`) are Python's own anyway. Those of the shell are given back to every test there, since packages
change some in this process, megatron-core with every model (`as_in_the_shell`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE_S

REAL_PYTHON = sys.executable
FOLDER = Path(__file__).resolve().parent
FOREIGN = (
    *("PYTHON", "TORCH", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "CUDA_", "NVTE_", "NCCL_", "NUMBA_", "TRITON_"),
    *("HF_", "TRANSFORMERS_", "TOKENIZERS_", "LD_", "MALLOC_", "LANG", "LC_", "TZ", "HOME", "XDG_", "MPL", "NVIDIA_"),
)
"""How the names of variables begin that packages read while they are imported."""
PASSED = (
    *("PYTHONPATH", "PYTHON", "PYTHONUNBUFFERED", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "CUDA_VISIBLE_DEVICES"),
    *("CUDA_DEVICE_MAX_CONNECTIONS", "NVTE_FRAMEWORK", "TOKENIZERS_PARALLELISM"),
    *("HF_HUB_OFFLINE", "TORCHINDUCTOR_CACHE_DIR"),
)
"""Those among them that they do not read then, or that say nothing to what is done here: on a CPU, with what lies on a disk."""
SHELL = dict(os.environ)
"""The variables that the tests began with."""
FORKED = {
    "e2e/test_attribute_model_use.py",
    "e2e/test_chat.py",
    "e2e/test_convert.py",
    "e2e/test_evaluate_by_judge.py",
    "e2e/test_evaluate_every_task.py",
    "e2e/test_evaluate_tasks.py",
    "e2e/test_experiments.py",
    "e2e/test_gpu_benchmark.py",
    "e2e/test_launch.py",
    "e2e/test_miniature.py",
    "e2e/test_miniature_sight.py",
    "e2e/test_own_schema.py",
    "golden/test_losses.py",
    "golden/test_miniature.py",
    "golden/test_resume.py",
    "parallel/test_attribute_model.py",
    "parallel/test_conditioned.py",
    "parallel/test_decoding.py",
    "parallel/test_decoding_resume.py",
    "parallel/test_dialogue_run.py",
    "parallel/test_every_recipe.py",
    "parallel/test_forking.py",
    "parallel/test_own_recipe.py",
    "parallel/test_parity.py",
    "parallel/test_probe.py",
    "parallel/test_training.py",
    "parallel/test_validation.py",
}
"""Modules whose commands are forked, below ``tests``."""
SERVED = ("torch.distributed.run", "nemo_mm_align.", "tests.")
"""Modules that may be started."""


def as_in_the_shell() -> None:
    """Take back what packages have done to the variables that imports look at: commands of users know nothing of it either."""
    for name in {*os.environ, *SHELL}:
        if name.startswith(FOREIGN) and name not in PASSED and os.environ.get(name) != SHELL.get(name):
            os.environ.pop(name, None)
            os.environ.update({name: SHELL[name]} if name in SHELL else {})


@contextmanager
def fork_server() -> Iterator[str]:
    """Start the server and yield what stands in for Python; Python itself where forks are not safe: beside a GPU's driver."""
    if sys.platform != "linux" or Path("/dev/nvidiactl").exists():
        yield REAL_PYTHON
        return
    with tempfile.TemporaryDirectory(prefix="forks-") as name:
        command = [REAL_PYTHON, str(FOLDER / "fork_server.py"), name]
        with subprocess.Popen(command, env=SHELL, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None and server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise RuntimeError(f"the fork server ended with {server.wait()}")
            try:
                yield str(write_client(Path(name)))
            finally:
                server.stdin.close()
                end_of(server)


def end_of(server: subprocess.Popen[bytes]) -> None:
    """Wait for the server's end, and fail where it had ended before, or does not: tests beside it were slow, or cut off."""
    try:
        code = server.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        raise RuntimeError("the fork server does not end") from None
    if code != 0:
        raise RuntimeError(f"the fork server has ended with {code} while tests ran")


def write_client(folder: Path) -> Path:
    """Write the program that stands in for Python."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    known = {
        "SOCKET": str(folder / "socket"),
        "PYTHON": REAL_PYTHON,
        "FOREIGN": FOREIGN,
        "PASSED": PASSED,
        "SERVED": SERVED,
        "PATHS": (str(FOLDER.parent), *entries),
        "SERVER": SHELL,
    }
    (folder / "known.json").write_text(json.dumps(known), encoding="utf-8")
    path = folder / "python"
    program = (FOLDER / "fork_client.py").read_text(encoding="utf-8")
    path.write_text(f"#!{REAL_PYTHON} -IS\n{program}", encoding="utf-8")
    path.chmod(0o755)
    return path
