"""Exit codes of torchrun in job scripts, with real ranks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_mm_align.launch.torchrun import exit_code
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.parallel


def start(repository: Path, folder: Path, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nemo_mm_align.launch.torchrun", "--standalone", "--nproc-per-node", "2"]
    command += [str(repository / "tests/unit/launch/rank.py"), how, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("how", "code", "block"), [("well", 0, 0), ("mistake", 2, 0), ("crash", 86, 1), ("killed", 137, 1)]
)
def test_what_happened_to_a_rank_is_the_exit_code(
    repository: Path, tmp_path: Path, how: str, code: int, block: int
) -> None:
    process = start(repository, tmp_path, how)
    text = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == code, text
    assert text.count("rank.py FAILED") == block and "Traceback" not in text
    if how == "mistake":
        assert text == "error: answers.jsonl:3: no such prompt.\n"
    if block:
        ended = "signal SIGKILL" if how == "killed" else "exit code 86"
        assert (
            text.splitlines()[-1]
            == f"error: rank 1 ended first, with {ended}; what it said stands above torchrun's block"
        )


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("waits", 128 + signal.SIGTERM, "ranks of this node ended with exit codes [-15, -15]"),
        ("leaves", 0, "all ranks of this node have ended well"),
    ],
)
def test_a_run_that_is_asked_to_leave_says_so(
    repository: Path, tmp_path: Path, how: str, code: int, words: str
) -> None:
    """As when Slurm preempts a job: during its checks that is no red, and the job is requeued; a training has saved."""
    process = start(repository, tmp_path, how)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, lambda: "ended" if process.poll() is not None else None)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == code and text == f"asked to leave by SIGTERM: {words}\n"


@pytest.mark.parametrize(
    ("first", "others", "code"), [(1, (1, 2), 2), (-9, (-9, 1), 137), (-15, (-15,), 143), (3, (3, -9), 3)]
)
def test_a_mistake_counts_more_than_what_it_brings_down(first: int, others: tuple[int, ...], code: int) -> None:
    assert exit_code(first, others) == code
