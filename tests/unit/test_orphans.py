"""Ranks end with a torchrun that was killed, forked helpers with their process; what a shell has left behind goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.waiting import wait_until

RANK = """
import os, sys, time
from nemo_mm_align.core.orphans import end_forks_with_this_process, end_with_launcher
end_with_launcher()
end_forks_with_this_process()
if os.fork() == 0:
    open(sys.argv[1] + "/helper", "w").write(str(os.getpid()))
else:
    open(sys.argv[1] + "/rank", "w").write(str(os.getpid()))
time.sleep(600)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"


def start(folder: Path, **environment: str) -> tuple[subprocess.Popen[bytes], psutil.Process, psutil.Process]:
    """Start a parent with a rank and a helper that the rank has forked."""
    variables = {**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, RANK, folder], env=variables)
    paths = [folder / "rank", folder / "helper"]
    wait_until(lambda: all(path.is_file() and path.read_text() for path in paths))
    rank, helper = (psutil.Process(int(path.read_text())) for path in paths)
    return parent, rank, helper


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_ranks_and_their_helpers_end_with_a_killed_torchrun(tmp_path: Path) -> None:
    parent, rank, helper = start(tmp_path, TORCHELASTIC_RUN_ID="none")
    parent.kill()
    parent.wait()
    wait_until(lambda: has_ended(rank) and has_ended(helper))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_without_torchrun_a_parent_may_go_and_helpers_end_with_their_process(tmp_path: Path, number: int) -> None:
    parent, rank, helper = start(tmp_path)
    parent.send_signal(number)
    parent.wait()
    assert not has_ended(rank)
    rank.kill()
    wait_until(lambda: has_ended(helper))
